"""Reads `log.jsonl`, and cuts it off where a run continues. Imports nothing heavy."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def log_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a log one after the other, as it may be long; none without a file.

    Lines that a crash or a full disk has cut off are skipped.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict):
                yield record


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a log in order."""
    return list(log_records(path))


_LONGEST_RECORD = 1 << 16


def cut_log(path: Path, size: int) -> None:
    """Removes everything after the first `size` bytes of a log."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def latest_seconds(path: Path) -> float:
    """Returns the time of the last record of a log that is continued; 0 for a new one."""
    if not path.is_file():
        return 0.0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_RECORD))
        lines = file.read().splitlines()
    try:
        return float(json.loads(lines[-1])["time_seconds"])
    except (ValueError, KeyError, TypeError, IndexError):
        return 0.0
