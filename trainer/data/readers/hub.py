"""Data sets that `datasets` knows: saved folders, and names on the hub."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.data.readers.json_lines import Record
from trainer.errors import BadData

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?(:[\w.-]{1,96})?")
_SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "dev", "val"), "test": ("test",)}


def is_saved_folder(folder: Path) -> bool:
    """Whether `datasets` saved this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_saved_folder(folder: Path, split: str) -> Iterator[Record]:
    """Every row of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    import datasets

    for path in folder.rglob("*"):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BadData(
                f"{path} is a link that leads out of {folder}; put the file itself there."
            )
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets raises errors of many kinds for a damaged folder
        raise BadData(
            f"{folder} cannot be read as a saved data set: {error}. Save it anew with"
            " `save_to_disk`."
        ) from error
    return _records(
        _chosen(saved, split, str(folder)) if isinstance(saved, datasets.DatasetDict) else saved,
        folder.name,
    )


def saved_splits(folder: Path) -> list[str]:
    """Which of train, dev and test a saved folder has; one that was saved without splits has train
    only.
    """
    listed = folder / "dataset_dict.json"
    if not listed.is_file():
        return ["train"]
    there = json.loads(listed.read_text(encoding="utf-8")).get("splits", [])
    return [
        split for split, names in _SPLIT_NAMES.items() if any(name in there for name in names)
    ] or ["train"]


def checked_hub_name(source: str) -> str:
    """`source` if it can be the name of a hub data set, `owner/name` or `owner/name:configuration`.
    Raises BadData for paths and addresses.
    """
    if ".." in source or not _NAME.fullmatch(source):
        raise BadData(
            f"{source!r} is neither a file or folder that is there nor the name of a hub data set"
            " (owner/name). Check the path; addresses (https://, file://) are not read: download"
            " the file first."
        )
    return source


def read_hub(source: str, split: str) -> Iterator[Record]:
    """Every row of a hub data set's split. Raises BadData when it cannot be had."""
    import datasets

    name, _, configuration = checked_hub_name(source).partition(":")
    try:
        found = datasets.load_dataset(name, configuration or None)
    except (
        Exception
    ) as error:  # the hub client raises its own, requests' and the operating system's errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadData(
            f"{source!r} is no file or folder here, and could not be read from the hub ({reason})."
            " Check the name; without a network, download the data and name the file."
        ) from error
    return _records(_chosen(found, split, source), source)


def _chosen(splits: Any, split: str, source: str) -> Any:
    name = next((name for name in _SPLIT_NAMES.get(split, (split,)) if name in splits), None)
    if name is None:
        raise BadData(
            f"{source} has no {split} split; its splits: {', '.join(splits)}. Name the file of that"
            " split instead."
        )
    return splits[name]


def _records(rows: Any, name: str) -> Iterator[Record]:
    for number, values in enumerate(rows, start=1):
        yield Record(f"{name}:{number}", dict(values))
