"""What a stage is made with, and the key made of it: two stages with the same key make the same.

A key is the hash of the command, the contents of all it reads, the keys of the stages it needs, and
the version of nearfar. Where the pipeline's folder lies and on what machine a stage runs (its
`machine`) is not in it.
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
"""Stands for the folder of all stages in what is hashed."""

_GROUPS = {"data", "recipe"}
"""Verbs of two words. A folder that has the name of a verb is not read because of it: most projects
have one named data.
"""

MadeWith = dict[str, Any]
"""All that the outcome of a stage depends on: nearfar, command, recipe, reads (path to sha256),
stages (name to key).
"""


@dataclass(frozen=True)
class Keyed:
    """A stage whose needed stages have keys, and so has one itself."""

    name: str
    key: str
    folder: Path
    command: list[str]
    """The words of the command with the paths and values put in; the first is `nearfar`."""
    outputs: dict[str, Path]
    made_with: MadeWith

    @property
    def record(self) -> Path:
        """The JSON file that is there once the stage is done."""
        return self.folder.with_name(f"{self.key}.json")

    @property
    def log(self) -> Path:
        """What the command said."""
        return self.folder.with_name(f"{self.key}.log")


def keyed(pipeline: Pipeline, name: str, earlier: Mapping[str, Keyed]) -> Keyed:
    """Stage `name` with its key; `earlier` holds the stages it needs. Reads all files that the
    command reads; raises `BadRecipe` for a bad recipe.
    """
    stage = pipeline.stages[name]
    made_with = _made_with(pipeline, name, earlier)
    key = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:12]
    folder = pipeline.folder / name / key

    def at(other: str, inside: str) -> str:
        return str((folder if other == name else earlier[other].folder) / inside)

    command = ["nearfar", *(fill(pipeline, name, word, at) for word in stage.words)]
    if stage.machine is not None:
        command[1] = "launch"
        command += ["--machine", fill(pipeline, name, stage.machine, at)]
    return Keyed(
        name,
        key,
        folder,
        command,
        {output: folder / inside for output, inside in stage.outputs.items()},
        made_with,
    )


def all_keyed(pipeline: Pipeline, names: Iterable[str]) -> dict[str, Keyed]:
    """The stages, given each behind those it needs, with their keys."""
    found: dict[str, Keyed] = {}
    for name in names:
        found[name] = keyed(pipeline, name, found)
    return found


def changes(before: MadeWith, now: MadeWith) -> list[str]:
    """What differs, in words; nothing where nothing does.

    >>> changes(
    ...     {"command": ["fit"], "reads": {"a": "1", "b": "2"}},
    ...     {"command": ["fit"], "reads": {"a": "3"}},
    ... )
    ['a has changed', 'b is no longer read']
    """
    found = []
    if before.get("nearfar") != now.get("nearfar"):
        found.append(f"nearfar {before.get('nearfar')} has become {now.get('nearfar')}")
    if before.get("command") != now.get("command"):
        found.append("the command has changed")
    if before.get("recipe") != now.get("recipe") and before.get("command") == now.get("command"):
        found.append("its recipe has changed")
    for part, change in (("reads", "{} has changed"), ("stages", "stage {} has changed")):
        old, new = before.get(part, {}), now.get(part, {})
        found += [change.format(name) for name in new if name in old and old[name] != new[name]]
        found += [f"{name} is new to it" for name in new if name not in old]
        found += [
            f"{name} is no longer {'read' if part == 'reads' else 'needed'}"
            for name in old
            if name not in new
        ]
    return found


def _made_with(pipeline: Pipeline, name: str, earlier: Mapping[str, Keyed]) -> MadeWith:
    stage = pipeline.stages[name]
    words = [fill(pipeline, name, word, _neutral) for word in stage.words]
    recipe = _recipe(words)
    arguments = words[2 if words[0] in _GROUPS else 1 :]
    named = [
        *arguments,
        *(word.partition("=")[2] for word in arguments),
        *([] if recipe is None else _texts(recipe.model_dump(exclude={"name", "output"}))),
    ]
    asked = [fill(pipeline, name, path, _neutral) for path in stage.reads]
    if missing := [
        path for path in asked if not _is_there(path) and _STAGES not in Path(path).parts
    ]:
        raise BadPipeline(f"stage {name}: reads: there is no {missing[0]}")
    reads = {path for path in [*named, *asked] if _is_there(path)} - (
        {_recipe_file(words)} if recipe else set()
    )
    return {
        "nearfar": __version__,
        "command": words,
        "recipe": (
            None if recipe is None else dump_recipe(recipe)
        ),  # and not the file, whose comments teach nothing
        "reads": {path: _fingerprint(name, path) for path in sorted(reads)},
        "stages": {other: earlier[other].key for other in needs(pipeline, name)},
    }


def _fingerprint(name: str, path: str) -> str | None:
    try:
        return fingerprint_of(path)["sha256"]
    except OSError as error:
        raise BadPipeline(
            f"stage {name} reads {path}, where {error.filename} cannot be read: {error.strerror};"
            " make it readable"
        ) from error


def _neutral(stage: str, inside: str) -> str:
    """An output's path as it is hashed: without the pipeline's folder and without keys."""
    return f"{_STAGES}/{stage}/{inside}"


def _recipe_file(words: list[str]) -> str:
    """The recipe of a `fit`; "" where there is none, or it is itself an output of a stage, and so
    in that stage's key.
    """
    arguments = (
        [word for word in words[1:] if not word.startswith("-")] if words[0] == "fit" else []
    )
    return arguments[0] if arguments and _STAGES not in Path(arguments[0]).parts else ""


def _recipe(words: list[str]) -> Recipe | None:
    """The recipe of a `fit` as it will be run."""
    file = _recipe_file(words)
    return (
        load_recipe(file, [word for word in words[1:] if not word.startswith("-") and word != file])
        if file
        else None
    )


def _texts(value: Any) -> list[str]:
    """Every text in nested values: among them are the recipe's data and models."""
    match value:
        case dict():
            return [text for inner in value.values() for text in _texts(inner)]
        case list() | tuple():
            return [text for inner in value for text in _texts(inner)]
        case str():
            return [value]
        case _:
            return []


def _is_there(text: str) -> bool:
    """Whether a text names a file or folder of this machine, other than the current folder and what
    is above it.
    """
    try:
        return bool(text.strip("./")) and Path(text).exists()
    except (OSError, ValueError):  # too long, or with characters that no path has
        return False
