"""Reads `log.jsonl`, and cuts it off where a run continues. Imports nothing heavy."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_TAIL_BYTES = 1 << 18


def log_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a log one after the other, as it may be long; none without a file.

    Lines that a crash or a full disk has cut off are skipped.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        yield from _records(lines)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a log in order."""
    return list(log_records(path))


def read_tail(path: Path, size: int = _TAIL_BYTES) -> list[dict[str, Any]]:
    """Returns the records in the last `size` bytes of a `log.jsonl`, in order."""
    try:
        if not path.is_file():  # e.g. a pipe that nobody writes to
            return []
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - size)
            file.seek(start)
            lines = file.read(size).splitlines()
    except OSError:
        return []
    return list(_records(lines[1:] if start else lines))


def cut_log(path: Path, size: int) -> None:
    """Removes everything after the first `size` bytes of a log."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def latest_seconds(path: Path) -> float:
    """Returns the time of the last record of a log that is continued; 0 for a new one."""
    try:
        return float(read_tail(path)[-1]["time_seconds"])
    except (ValueError, KeyError, TypeError, IndexError):
        return 0.0


def _records(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """Yields the lines that are JSON objects."""
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record
