"""The dependencies of a stage and the key computed from them. Stages with the same key have the
same result.

A key is a hash. It covers the command, the contents of all files that it reads, the keys of the
stages that it needs, and the version of nearfar. It does not depend on the pipeline's folder or on
the `machine` of a stage.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import __version__
from trainer.data.fingerprint import fingerprint_of
from trainer.errors import BadPipeline
from trainer.pipeline.file import Pipeline
from trainer.pipeline.graph import fill, needs
from trainer.recipe.load import dump_recipe, load_recipe
from trainer.recipe.schema.families import Recipe

_STAGES = ".stages"
"""A placeholder for the folder of all stages in the hashed text."""

_GROUPS = {"data", "recipe", "route"}
"""First words of verbs with two words. They are not taken for folders of these names, since most
projects have a folder `data`.
"""

Dependencies = dict[str, Any]
"""Everything that the result of a stage depends on: nearfar, command, recipe, reads (path to
sha256) and stages (name to key).
"""


@dataclass(frozen=True)
class KeyedStage:
    """A stage with its key, its folder and its command."""

    name: str
    key: str
    folder: Path
    command: list[str]
    """The words of the command with all paths and values filled in; the first is `nearfar`."""
    outputs: dict[str, Path]
    dependencies: Dependencies

    @property
    def record(self) -> Path:
        """The JSON file that exists once the stage is done."""
        return self.folder.with_name(f"{self.key}.json")

    @property
    def log(self) -> Path:
        """The file with the output of the command."""
        return self.folder.with_name(f"{self.key}.log")


def add_key(pipeline: Pipeline, name: str, earlier: Mapping[str, KeyedStage]) -> KeyedStage:
    """Returns stage `name` with its key; `earlier` contains the stages it needs.

    Reads all files that the command reads. Raises `BadRecipe` for an invalid recipe.
    """
    stage = pipeline.stages[name]
    dependencies = _dependencies(pipeline, name, earlier)
    key = hashlib.sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest()[:12]
    folder = pipeline.folder / name / key

    def output_path(stage_name: str, inside: str) -> str:
        return str((folder if stage_name == name else earlier[stage_name].folder) / inside)

    command = ["nearfar", *(fill(pipeline, name, word, output_path) for word in stage.words)]
    if stage.machine is not None:
        command[1] = "launch"
        command += ["--machine", fill(pipeline, name, stage.machine, output_path)]
    return KeyedStage(
        name,
        key,
        folder,
        command,
        {output: folder / inside for output, inside in stage.outputs.items()},
        dependencies,
    )


def add_keys(pipeline: Pipeline, names: Iterable[str]) -> dict[str, KeyedStage]:
    """Returns stages with their keys. `names` must list each stage after those it needs."""
    stages: dict[str, KeyedStage] = {}
    for name in names:
        stages[name] = add_key(pipeline, name, stages)
    return stages


def changes(old: Dependencies, new: Dependencies) -> list[str]:
    """Describes the differences between two dependencies of a stage.

    >>> changes(
    ...     {"command": ["fit"], "reads": {"a": "1", "b": "2"}},
    ...     {"command": ["fit"], "reads": {"a": "3"}},
    ... )
    ['a has changed', 'b is no longer read']
    """
    lines = []
    if old.get("nearfar") != new.get("nearfar"):
        lines.append(f"nearfar {old.get('nearfar')} has become {new.get('nearfar')}")
    if old.get("command") != new.get("command"):
        lines.append("the command has changed")
    if old.get("recipe") != new.get("recipe") and old.get("command") == new.get("command"):
        lines.append("its recipe has changed")
    for part, change, verb in (
        ("reads", "{} has changed", "read"),
        ("stages", "stage {} has changed", "needed"),
    ):
        old_part, new_part = old.get(part, {}), new.get(part, {})
        lines += [
            change.format(name)
            for name in new_part
            if name in old_part and old_part[name] != new_part[name]
        ]
        lines += [f"{name} is new" for name in new_part if name not in old_part]
        lines += [f"{name} is no longer {verb}" for name in old_part if name not in new_part]
    return lines


def _dependencies(pipeline: Pipeline, name: str, earlier: Mapping[str, KeyedStage]) -> Dependencies:
    stage = pipeline.stages[name]
    words = [fill(pipeline, name, word, _neutral) for word in stage.words]
    recipe = _recipe(words)
    arguments = words[2 if words[0] in _GROUPS else 1 :]
    texts = [
        *arguments,
        *(word.partition("=")[2] for word in arguments),
        *([] if recipe is None else _texts(recipe.model_dump(exclude={"name", "output"}))),
    ]
    listed_paths = [fill(pipeline, name, path, _neutral) for path in stage.reads]
    if missing := [
        path for path in listed_paths if not _exists(path) and _STAGES not in Path(path).parts
    ]:
        raise BadPipeline(
            f"stage {name}: reads: there is no {missing[0]}; correct the path or remove it"
        )
    reads = {path for path in [*texts, *listed_paths] if _exists(path)} - (
        {_recipe_file(words)} if recipe else set()
    )
    return {
        "nearfar": __version__,
        "command": words,
        # The recipe itself is hashed and not its file, whose comments do not change the result.
        "recipe": None if recipe is None else dump_recipe(recipe),
        "reads": {path: _fingerprint(name, path) for path in sorted(reads)},
        "stages": {stage_name: earlier[stage_name].key for stage_name in needs(pipeline, name)},
    }


def _fingerprint(name: str, path: str) -> str | None:
    try:
        return fingerprint_of(path)["sha256"]
    except OSError as error:
        raise BadPipeline(
            f"stage {name} reads {path}, but {error.filename} cannot be read: {error.strerror};"
            " make it readable"
        ) from error


def _neutral(stage: str, inside: str) -> str:
    """Returns the path of an output for the hash, without the pipeline's folder and keys."""
    return f"{_STAGES}/{stage}/{inside}"


def _recipe_file(words: list[str]) -> str:
    """Returns the recipe file of a `fit`, or "" if there is none.

    It is also "" if the recipe is an output of a stage, since the key of that stage covers it.
    """
    arguments = (
        [word for word in words[1:] if not word.startswith("-")] if words[0] == "fit" else []
    )
    return arguments[0] if arguments and _STAGES not in Path(arguments[0]).parts else ""


def _recipe(words: list[str]) -> Recipe | None:
    """Returns the recipe of a `fit` with the overrides of the command."""
    file = _recipe_file(words)
    return (
        load_recipe(file, [word for word in words[1:] if not word.startswith("-") and word != file])
        if file
        else None
    )


def _texts(value: Any) -> list[str]:
    """Returns all texts in nested values, among them the paths of data and models."""
    match value:
        case dict():
            return [text for inner in value.values() for text in _texts(inner)]
        case list() | tuple():
            return [text for inner in value for text in _texts(inner)]
        case str():
            return [value]
        case _:
            return []


def _exists(text: str) -> bool:
    """Returns True if a text is the path of a file or folder. The current folder and its parents do
    not count.
    """
    try:
        return bool(text.strip("./")) and Path(text).exists()
    except (OSError, ValueError):  # the text is too long, or has characters that no path has
        return False
