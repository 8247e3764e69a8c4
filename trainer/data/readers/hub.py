"""Reads data sets through `datasets`: folders that it saved, and data sets on the hub."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.readers.json_lines import Record
from trainer.errors import BadData
from trainer.storage.near_paths import nearest_path, tell_before_hub

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?(:[\w.-]{1,96})?")
_TIMEOUT_SECONDS = 10.0
_SPLIT_NAMES = {"train": ("train",), "dev": ("validation", "dev", "val"), "test": ("test",)}


def is_saved_folder(folder: Path) -> bool:
    """Returns True for a folder that `datasets` saved."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def read_saved_folder(folder: Path, split: str) -> Iterator[Record]:
    """Yields every row of a split of a folder that `save_to_disk` of `datasets` wrote."""
    import datasets

    for path in folder.rglob("*"):
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BadData(
                f"{path} is a link that leads out of {folder}; put the file itself there."
            )
    try:
        data_set = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets raises errors of many kinds for a damaged folder
        raise BadData(
            f"{folder} cannot be read as a saved data set: {error}. Save it again with"
            " `save_to_disk`."
        ) from error
    if isinstance(data_set, datasets.DatasetDict):
        data_set = _select_split(data_set, split, str(folder))
    return _records(data_set, folder.name)


def saved_splits(folder: Path) -> list[str]:
    """Returns the splits of a saved folder among train, dev and test, or "train" if it has no
    splits.
    """
    path = folder / "dataset_dict.json"
    if not path.is_file():
        return ["train"]
    stored_names = json.loads(path.read_text(encoding="utf-8")).get("splits", [])
    return [
        split
        for split, names in _SPLIT_NAMES.items()
        if any(name in stored_names for name in names)
    ] or ["train"]


def check_hub_name(source: str) -> None:
    """Raises BadData unless `source` can name a hub data set: `owner/name` or
    `owner/name:configuration`.
    """
    if ".." in source or not _NAME.fullmatch(source):
        raise BadData(
            f"{source!r} is neither an existing file or folder nor the name of a hub data set"
            f" (owner/name){nearest_path(source) or '. Check the path.'} Addresses (https://,"
            " file://) are not read: download the file first."
        )


def load_from_hub(
    name: str,
    configuration: str | None = None,
    split: str | None = None,
    *,
    subject: str,
    advice: str,
) -> Any:
    """Returns the result of `datasets.load_dataset`.

    Without a network, only its cache is read. On failure, raises BadData: "`subject` could not be
    read from the hub (reason). `advice`".
    """
    from datasets import load_dataset

    with cache_unless_reached(name) as is_reached:
        try:
            return load_dataset(name, configuration, split=split)
        except Exception as error:  # its own errors, the HTTP client's and the operating system's
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = lines[0] if is_reached else "it could not be reached"
            raise BadData(
                f"{subject} could not be read from the hub ({reason}). {advice}"
            ) from error


@contextmanager
def cache_unless_reached(name: str) -> Iterator[bool]:
    """Context in which `datasets` reads its cache alone if the hub does not answer for this data
    set; by itself it tries for half a minute. Gives False if the hub does not answer.
    """
    from datasets import config

    chose_offline = config.HF_HUB_OFFLINE
    is_reached = chose_offline or _hub_answers(name)
    config.HF_HUB_OFFLINE = chose_offline or not is_reached
    try:
        yield is_reached
    finally:
        config.HF_HUB_OFFLINE = chose_offline


def _hub_answers(name: str) -> bool:
    """Asks the hub for a data set, once. A refusal is an answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(name, timeout=_TIMEOUT_SECONDS)
    except HfHubHTTPError:
        return True
    except Exception:  # noqa: BLE001 - the errors of its HTTP client differ between versions
        return False
    return True


def read_hub(source: str, split: str) -> Iterator[Record]:
    """Yields every row of a split of a hub data set. Raises BadData if it cannot be downloaded."""
    check_hub_name(source)
    name, _, configuration = source.partition(":")
    suggestion = nearest_path(source)
    tell_before_hub(source, suggestion)
    subject = f"{source!r} is no file or folder here"
    data_set = load_from_hub(
        name,
        configuration or None,
        subject=f"{subject}{suggestion} It" if suggestion else f"{subject}, and",
        advice="Check the name; without a network, download the data and name the file.",
    )
    return _records(_select_split(data_set, split, source), source)


def _select_split(splits: Any, split: str, source: str) -> Any:
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
