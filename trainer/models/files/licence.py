"""The licence of a model, from the metadata of its README."""

import re

import yaml

from trainer.errors import BadModel
from trainer.models.files.locate import locate

HEAD = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)
"""The metadata of a README, as YAML in the first group."""


def licence_of(name: str) -> str | None:
    """Returns the licence that the README of a model names, or None if it names none.

    `name` is that of a model that has been loaded, so nothing is fetched.
    """
    try:
        readme = locate(name) / "README.md"
        text = readme.read_text(encoding="utf-8", errors="replace")
    except (BadModel, OSError):
        return None
    head = HEAD.match(text)
    try:
        values = yaml.safe_load(head[1]) if head is not None else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    licence = values.get("license") if isinstance(values, dict) else None
    return licence if isinstance(licence, str) else None
