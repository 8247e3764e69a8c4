"""The latest values of a run, from the end of its log and from its newest checkpoint.

A log can have hundreds of megabytes, so only its end is read. Files may be damaged, or come from an
unknown author: what cannot be read counts as missing.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.runtime.log_file import read_tail
from trainer.storage.manifest import MANIFEST, Damaged, read_manifest

_LOSS, _SCORE = "train/loss", "validation/ndcg@10"


@dataclass(frozen=True)
class Latest:
    """How far a run has come."""

    step: int | None = None
    """The number of steps that are done."""
    loss: float | None = None
    """The loss of the latest step; None also if it is not finite."""
    best_score: float | None = None
    """The best nDCG@10 on the validation queries."""


def read_latest(folder: Path, status: Mapping[str, Any]) -> Latest:
    """Returns the latest values of the run in a folder with this `status.json`."""
    records = read_tail(folder / "log.jsonl")
    steps = [record for record in records if _LOSS in record and is_count(record.get("step"))]
    state = _checkpoint_state(folder / "checkpoints" / "latest")
    best, selection = _mapping(state.get("best")), _mapping(status.get("selection"))
    scores = [
        *(record.get(_SCORE) for record in records),
        best.get("score"),
        state.get("base_score"),
        selection.get("best_score"),
        selection.get("base_score"),
    ]
    if not steps:
        step = state.get("step")
        return Latest(step if is_count(step) else None, None, _largest(scores))
    return Latest(steps[-1]["step"] + 1, _number(steps[-1][_LOSS]), _largest(scores))


def is_count(value: Any) -> bool:
    """Returns whether a value of a JSON file is a whole number that is not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checkpoint_state(folder: Path) -> Mapping[str, Any]:
    try:
        is_there = (folder / MANIFEST).is_file()
        return _mapping(read_manifest(folder).get("state")) if is_there else {}
    except (Damaged, OSError, RecursionError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _largest(values: Iterable[Any]) -> float | None:
    numbers = [number for value in values if (number := _number(value)) is not None]
    return max(numbers, default=None)


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
