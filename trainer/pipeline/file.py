"""Reads a pipeline file into a checked `Pipeline`. All problems are reported at once, each with its
line and the nearest key.

The file cannot run or import anything: a command is a list of words for `nearfar`, never a line for
a shell.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field

from trainer.errors import BadPipeline
from trainer.recipe.nearest import nearest, question
from trainer.recipe.raw_recipe import RawRecipe
from trainer.recipe.schema.section import Section
from trainer.recipe.schema.trackers import Tracker
from trainer.recipe.section_problems import join_problems, matching, validate_file
from trainer.recipe.shipped import recipe_file
from trainer.recipe.yaml_text import Place, key_name, parse, parse_word, read_text

FOLDER = "folder"
"""The output that every stage has without declaring it: its own folder."""

_NAME_ADVICE = (
    "cannot be a name; a name begins with a letter and contains only letters, digits, - and _"
)
Name = Annotated[str, matching(r"[A-Za-z][A-Za-z0-9_-]{0,49}", _NAME_ADVICE)]
_SHELL = {"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1"}


class Stage(Section):
    """One command with its outputs and its further dependencies."""

    command: str = Field(
        description=(
            "an ordinary command, such as `nearfar fit ...`; ${stage.output}, ${output} and"
            " ${value} are replaced by paths and values"
        )
    )
    outputs: dict[Name, str] = Field(
        {},
        description=(
            "output names and their paths inside the stage's folder ${folder}, to which the command"
            " must write"
        ),
    )
    after: tuple[Name, ...] = Field(
        (),
        description=(
            "stages that must be done first although the command uses none of their outputs"
        ),
    )
    reads: tuple[str, ...] = Field(
        (),
        description=(
            "files and folders that the command reads although neither it nor its recipe names them"
        ),
    )
    machine: str | None = Field(
        None,
        description="only for `fit`: the machine file for `nearfar launch`; null: one process",
    )

    @property
    def words(self) -> list[str]:
        """The words of the command after `nearfar`."""
        return shlex.split(self.command)[1:]


class Pipeline(Section):
    """Stages that use each other's outputs."""

    name: Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", _NAME_ADVICE)] = Field(
        description="name of the pipeline; the folder of all stages is `<output>/<name>`"
    )
    output: str = Field("runs", description="folder of all runs")
    values: dict[Name, str | int | float | bool] = Field(
        {},
        description="named values that several commands share; values.NAME=VALUE changes one",
    )
    trackers: tuple[Tracker, ...] = Field(
        (),
        description=(
            "trackers of every `fit`, `mine` and `evaluate` stage; their group is the name of the"
            " pipeline. A change runs no stage again"
        ),
    )
    stages: Annotated[dict[Name, Stage], Field(min_length=1)] = Field(
        description="stages by their names"
    )

    @property
    def folder(self) -> Path:
        """The folder to which all stages write."""
        return Path(self.output) / self.name


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Returns the pipeline in a YAML file, or the shipped pipeline of that name.

    `overrides` are `values.NAME=VALUE`, `name=NAME` or `output=FOLDER`. Raises `BadPipeline` that
    lists all problems.
    """
    path = recipe_file(path, "pipelines")
    tree = parse(read_text(path, "pipeline"), str(path))
    if not isinstance(tree.value, dict):
        raise BadPipeline(
            f"pipeline {path} is not a mapping of keys; give at least `name` and `stages`"
        )
    if "stages" not in tree.value and "model" in tree.value:
        raise BadPipeline(f"{path} is a recipe, not a pipeline; `nearfar fit {path}` runs it")
    for override in overrides:
        _override(tree.value, override)
    raw = RawRecipe.from_tree(tree.value, tree, str(path))
    pipeline = validate_file(Pipeline, raw, BadPipeline, "pipeline")
    if problems := [
        f"{raw.origin(place)}: {key_name(place)}{reason}"
        for place, reason in _contradictions(pipeline)
    ]:
        raise BadPipeline(join_problems(problems, f"pipeline {path}"))
    return pipeline


def _override(values: dict[str, object], override: str) -> None:
    """Applies one setting of the command line. Only keys that the file has can be changed."""
    key, equals, text = override.partition("=")
    section = values.get("values")
    shared_values = section if isinstance(section, dict) else {}
    valid_keys = ["name", "output", *(f"values.{name}" for name in shared_values)]
    if not equals or key not in valid_keys:
        raise BadPipeline(
            f"command line: {override} is none of"
            f" {', '.join(f'{valid_key}=...' for valid_key in valid_keys)}"
            f"{question(nearest(key, valid_keys))}; write the settings of a recipe into the command"
            " of its stage"
        )
    target, name = (
        (shared_values, key.removeprefix("values.")) if key.startswith("values.") else (values, key)
    )
    target[name] = text if target is values else parse_word(text)


def _contradictions(pipeline: Pipeline) -> Iterable[tuple[Place, str]]:
    """Yields place and reason of settings that have a valid form and yet cannot work."""
    for name, stage in pipeline.stages.items():
        place: Place = ("stages", name)
        try:
            words = shlex.split(stage.command)
        except ValueError as error:
            yield (*place, "command"), f" has a quote that does not end ({error})"
            continue
        for reason in _command_problems(stage.command, words):
            yield (*place, "command"), reason
        if stage.machine is not None and words[1:2] != ["fit"]:
            yield (*place, "machine"), " is for `nearfar fit`; other commands run as one process"
        for output, path in stage.outputs.items():
            for reason in _output_problems(pipeline, output, path):
                yield (*place, "outputs", output), reason
    if FOLDER in pipeline.values:
        yield (
            ("values", FOLDER),
            ": ${folder} is already the folder of the stage; choose another name",
        )


def _command_problems(command: str, words: list[str]) -> Iterable[str]:
    """Yields the reasons why a command cannot be run."""
    if len(words) < 2 or words[0] != "nearfar":
        yield (
            f": {command!r:.60} is not a command of nearfar; write it as on the command line:"
            " nearfar VERB ..."
        )
    if shell := [word for word in words if word in _SHELL]:
        yield (
            f": {shell[0]} needs a shell, and stages run without one; make each command a stage of"
            " its own"
        )
    if words[1:2] == ["launch"]:
        yield ": for several processes write `nearfar fit ...`, and `machine: FILE` beside it"


def _output_problems(pipeline: Pipeline, output: str, path: str) -> Iterable[str]:
    """Yields the reasons why an output cannot have this name or path."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not re.sub(r"[./]", "", path):
        yield f": {path} must be a path inside the stage's folder, such as {output}"
    if output == FOLDER or output in pipeline.values:
        meaning = "the stage's folder itself" if output == FOLDER else f"values.{output}"
        yield f": ${{{output}}} is already {meaning}; choose another name"
