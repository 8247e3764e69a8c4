"""What a run is made of, by which a continued run notices that something has changed."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.build.data import data_fingerprint
from trainer.data.fingerprint import SourceDigests
from trainer.errors import NearfarError
from trainer.models.files.locate import locate
from trainer.recipe.schema.families import Recipe
from trainer.storage.manifest import add_sample

_FREE_SECTIONS = ("name", "output", "machine", "checkpoints", "trackers")
"""What may change between two attempts, because it does not change what is learned."""
_MODEL_FILES = (".json", ".txt", ".model", ".safetensors")
VERSION = "nearfar version"


def run_identity(
    recipe: Recipe, training_rows: int, digests: SourceDigests | None = None
) -> dict[str, str]:
    """Returns the settings of a recipe, and fingerprints of its data and of its base model.

    A file is known by its content, so it may be elsewhere in the next attempt.
    """
    data = dict(_leaves("data", data_fingerprint(recipe, training_rows, digests)))
    # A hub data set has no digest, so its name stays.
    names = {
        value
        for key, value in data.items()
        if key.endswith(".source") and data[f"{key.removesuffix('.source')}.sha256"] != "null"
    }
    settings = {
        key: value
        for key, value in _leaves("", recipe.model_dump(mode="json"))
        if key.split(".")[0] not in _FREE_SECTIONS and value not in names
    }
    fingerprints = {key: value for key, value in data.items() if not key.endswith("source")}
    for key, base in recipe.model.base_models.items():
        if digest := model_digest(base):
            quoted_base = json.dumps(base)
            settings = {name: value for name, value in settings.items() if value != quoted_base}
            fingerprints[f"{key} and its tokenizer" if key == "model.backbone" else key] = digest
    return settings | fingerprints | {VERSION: importlib.metadata.version("nearfar")}


def identity_changes(former: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """Returns one line per difference. A key that another version does not know yet is as good as
    null.

    >>> identity_changes({"seed": "1", "a": "0"}, {"seed": "2", "a": "0", "new": "null"})
    ['seed: 1 before, now 2']
    """
    keys = dict.fromkeys((*former, *current))
    values = {key: (former.get(key, "null"), current.get(key, "null")) for key in keys}
    return [f"{key}: {old} before, now {new}" for key, (old, new) in values.items() if old != new]


def _leaves(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yields the values of nested dictionaries and lists by their places."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _leaves(f"{place}.{key}" if place else str(key), inner)
    else:
        yield place, json.dumps(value)


def model_digest(name: str) -> str | None:
    """Returns a SHA-256 over the files of a model, or None if there is none of that name.

    Large files count with a sample of their bytes, so that a start stays quick.
    """
    try:
        folder = locate(name)
    except NearfarError:
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _MODEL_FILES and path.is_file():
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            add_sample(digest, path)
    return digest.hexdigest()
