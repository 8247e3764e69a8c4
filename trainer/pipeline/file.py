"""A pipeline file to a checked `Pipeline`: one strict tree, every problem at once, with its line
and the nearest key.

Nothing is run or imported by the file: a command is a list of words for `nearfar`, never a line for
a shell.
"""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from trainer.errors import BadPipeline
from trainer.recipe.nearest import nearest, question
from trainer.recipe.schema.section import Section
from trainer.recipe.shipped import recipe_file
from trainer.recipe.yaml_text import Place, Tree, key_name, parse, parse_word, read_text

FOLDER = "folder"
"""The output that every stage has without naming it: its own folder."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,49}$")]
_SHELL = {"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1"}
_NAME_ADVICE = "a name begins with a letter and holds letters, digits, - and _"


class Stage(Section):
    """One command, what it makes, and what else it depends on."""

    command: str = Field(
        description=(
            "an ordinary command, `nearfar fit ...`; ${stage.output}, ${output} and ${value} stand"
            " for paths and values"
        )
    )
    outputs: dict[Name, str] = Field(
        {},
        description=(
            "name to path inside the stage's folder ${folder}, where the command is to write"
        ),
    )
    after: tuple[Name, ...] = Field(
        (),
        description=(
            "stages that must be done first though nothing of theirs is named in the command"
        ),
    )
    reads: tuple[str, ...] = Field(
        (),
        description=(
            "files and folders that the command reads though neither it nor its recipe names them"
        ),
    )
    machine: str | None = Field(
        None, description="of `fit`: machine file of `nearfar launch`; null: one process"
    )

    @property
    def words(self) -> list[str]:
        """The words behind `nearfar`."""
        return shlex.split(self.command)[1:]


class Pipeline(Section):
    """Stages that name each other's outputs."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = Field(
        description="the folder of all stages is `<output>/<name>`"
    )
    output: str = Field("runs", description="folder of all runs")
    values: dict[Name, str | int | float | bool] = Field(
        {}, description="names for what several commands share; values.NAME=VALUE changes one"
    )
    stages: Annotated[dict[Name, Stage], Field(min_length=1)] = Field(description="name to stage")

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.output) / self.name


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """The pipeline in a YAML file, or the shipped one of that name, with `values.NAME=VALUE`,
    `name=NAME` or `output=FOLDER` put in. Raises `BadPipeline` that names every problem.
    """
    path = recipe_file(path, "pipelines")
    tree = parse(read_text(path, "pipeline"), str(path))
    if not isinstance(tree.value, dict):
        raise BadPipeline(f"pipeline {path} is no map; give at least name and stages")
    if "stages" not in tree.value and "model" in tree.value:
        raise BadPipeline(f"{path} is a recipe, not a pipeline; `nearfar fit {path}` runs it")
    for override in overrides:
        _override(tree.value, override)
    try:
        pipeline = Pipeline.model_validate_json(json.dumps(tree.value))
    except ValidationError as error:
        raise _together(
            path,
            [
                _problem(details, tree, path)
                for details in error.errors(include_url=False, include_context=False)
            ],
        ) from error
    if problems := [
        f"{path}:{tree.lines[place]}: {key_name(place)}{reason}"
        for place, reason in _senseless(pipeline)
    ]:
        raise _together(path, problems)
    return pipeline


def _override(values: dict[str, object], override: str) -> None:
    """Puts one setting of the command line in; only what the file has may be changed."""
    key, equals, text = override.partition("=")
    within = values.get("values")
    shared = within if isinstance(within, dict) else {}
    known = ["name", "output", *(f"values.{name}" for name in shared)]
    if not equals or key not in known:
        raise BadPipeline(
            f"command line: {override} is none of"
            f" {', '.join(f'{each}=...' for each in known)}{question(nearest(key, known))}; a"
            " recipe's settings stand in the command of its stage"
        )
    target, name = (
        (shared, key.removeprefix("values.")) if key.startswith("values.") else (values, key)
    )
    target[name] = text if target is values else parse_word(text)


def _together(path: Path, problems: Iterable[str]) -> BadPipeline:
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        return BadPipeline(problems[0])
    return BadPipeline(
        f"{len(problems)} problems in pipeline {path}\n"
        + "\n".join(f"  {problem}" for problem in problems)
    )


def _problem(details: ErrorDetails, tree: Tree, path: Path) -> str:
    """One problem in words: line, key, what may stand there."""
    # pydantic marks a refused key of a map by a last step `[key]`, and members of a union by their
    # type: neither is a place of the file.
    place: Place = ()
    for step in details["loc"]:
        if (*place, step) in tree.lines or details["type"] == "missing":
            place = (*place, step)
    line = next(
        (
            tree.lines[place[:depth]]
            for depth in range(len(place), 0, -1)
            if place[:depth] in tree.lines
        ),
        None,
    )
    where = f"{path}:{line}" if line else str(path)
    key = key_name(place) or "the pipeline"
    match details["type"]:
        case "extra_forbidden":
            section = Stage if len(place) > 1 else Pipeline
            parent = "".join(f"{step}." for step in place[:-1])
            meant = question(
                [parent + name for name in nearest(str(place[-1]), section.model_fields)]
            )
            return (
                f"{where}: {key} is not a"
                f" key{meant or '; here stand ' + ', '.join(section.model_fields)}"
            )
        case "missing":
            section = Stage if len(place) > 1 else Pipeline
            return f"{where}: {key} is missing: {section.model_fields[str(place[-1])].description}"
        case "string_pattern_mismatch":
            return f"{where}: {key}: {details['input']!r:.60} cannot be a name; {_NAME_ADVICE}"
        case _:
            return (
                f"{where}: {key}: {details['input']!r:.60} cannot stand here;"
                f" {details['msg'][:1].lower()}{details['msg'][1:]}"
            )


def _senseless(pipeline: Pipeline) -> Iterable[tuple[Place, str]]:
    """Place and reason of what is well-formed and yet cannot be."""
    for name, stage in pipeline.stages.items():
        place: Place = ("stages", name)
        try:
            words = shlex.split(stage.command)
        except ValueError as error:
            yield (*place, "command"), f" has a quote that does not end ({error})"
            continue
        if len(words) < 2 or words[0] != "nearfar":
            yield (
                (*place, "command"),
                (
                    f": {stage.command!r:.60} is no command of nearfar; write it as on the command"
                    " line: nearfar VERB ..."
                ),
            )
        if shell := [word for word in words if word in _SHELL]:
            yield (
                (*place, "command"),
                (
                    f": {shell[0]} is for a shell, and none runs here; make each command a stage of"
                    " its own"
                ),
            )
        if words[1:2] == ["launch"]:
            yield (
                (
                    *place,
                    "command",
                ),
                ": for several processes write `nearfar fit ...`, and `machine: FILE` beside it",
            )
        if stage.machine is not None and words[1:2] != ["fit"]:
            yield (*place, "machine"), " is for `nearfar fit`; other commands run as one process"
        for output, inside in stage.outputs.items():
            if (
                PurePosixPath(inside).is_absolute()
                or ".." in PurePosixPath(inside).parts
                or not re.sub(r"[./]", "", inside)
            ):
                yield (
                    (
                        *place,
                        "outputs",
                        output,
                    ),
                    f": {inside} must be a path inside the stage's folder, such as {output}",
                )
            if output == FOLDER or output in pipeline.values:
                taken = "the stage's folder itself" if output == FOLDER else f"values.{output}"
                yield (
                    (
                        *place,
                        "outputs",
                        output,
                    ),
                    f": ${{{output}}} already stands for {taken}; choose another name",
                )
    if FOLDER in pipeline.values:
        yield (
            (
                "values",
                FOLDER,
            ),
            ": ${folder} already stands for the folder of the stage; choose another name",
        )
