"""Suggests a file or folder for a mistyped path."""

import os
import sys
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from trainer.storage.visible import visible

_LISTED_ENTRIES = 10_000
"""Entries of a folder that are compared with a name."""


def missing_path(path: str | Path, advice: str = "; check the path.") -> str:
    """Returns the message for a path that does not exist, with a similar one that does, or advice
    if there is none.
    """
    return f"{path} does not exist{nearest_path(path) or advice}"


def nearest_path(path: str | Path) -> str:
    """Returns `; did you mean PATH?` with a similar path that exists, or "" if there is none.

    Each part of the path that does not exist is replaced by the most similar name in its folder,
    with or without its suffix.
    """
    near = Path(Path(path).anchor)
    for part in Path(path).parts[len(near.parts) :]:
        if not os.path.lexists(near / part):
            try:
                with os.scandir(near) as entries:
                    names = sorted(entry.name for entry in islice(entries, _LISTED_ENTRIES))
            except OSError:
                return ""
            by_stem = {name.split(".")[0]: name for name in names} | {name: name for name in names}
            matches = get_close_matches(part, by_stem, n=1, cutoff=0.75)
            if not matches:
                return ""
            part = by_stem[matches[0]]
        near /= part
    is_similar = near != Path(path) and near.exists()
    return f"; did you mean {near}?" if is_similar else ""


def tell_before_hub(name: str, suggestion: str) -> None:
    """Prints the suggestion for a path, if there is one, before a hub is asked for that name."""
    if suggestion:
        print(visible(f"{name} does not exist here{suggestion} Asking the hub"), file=sys.stderr)
