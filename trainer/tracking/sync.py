"""Writes the run of a folder to a tracker, from its log: as one run, again and again.

`log.jsonl` has every step once, however often the run was continued. W&B loses a part of a run that
was continued without a server; here there is one part.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder, NearfarError
from trainer.recipe.load import load_recipe
from trainer.recipe.schema.trackers import TensorboardTracker, Tracker, WandbTracker
from trainer.runtime.attempts import has_run, read_json_object, read_status
from trainer.storage.locks import is_locked
from trainer.storage.redaction import redact
from trainer.tracking.opening import check_trackers, description_of_run, import_tracker, open_run
from trainer.tracking.results import results_of_run

SYNC = "sync"
"""The folder in a run folder for files that are written here."""


@dataclass(frozen=True)
class Log:
    """The values of a log by step."""

    values: Mapping[int, Mapping[str, float]]
    """In rising order of the steps."""
    seconds: Mapping[int, float]
    """When a step was logged, in seconds from the start of the run."""
    damaged_lines: int
    """Lines that could not be read, such as one that a crash has cut off."""

    def without_latest_step(self) -> "Log":
        """Returns the log of a run that goes on: its latest step may get further values."""
        return replace(self, values={step: self.values[step] for step in [*self.values][:-1]})


@dataclass(frozen=True)
class SyncedRun:
    """What was written."""

    run_id: str
    log: Log
    folder: Path
    """The folder of files, if the tracker writes files."""

    def __str__(self) -> str:
        points = sum(map(len, self.log.values.values()))
        text = f"{points:,} values of {len(self.log.values):,} steps, as run {self.run_id}"
        if not (damaged_lines := self.log.damaged_lines):
            return text
        are_lines = "line is" if damaged_lines == 1 else "lines are"
        return f"{text}; {damaged_lines:,} damaged {are_lines} left out"


def sync_run(folder: Path, tracker: Tracker) -> SyncedRun:
    """Writes the run in `folder` to a tracker, with its results as far as there are any.

    It may be called again, also while the run goes on. Raises BadFolder for a folder without a run,
    BadRecipe if the package of the tracker is missing, and NearfarError if the tracker fails.
    """
    if not has_run(folder):
        raise BadFolder(
            f"{folder} is not a run folder: it has no environment.json; give a folder that `nearfar"
            " fit` wrote, e.g. runs/quickstart"
        )
    check_trackers((tracker,))
    log, recipe = read_values(folder / "log.jsonl"), load_recipe(folder / "recipe.yaml")
    place = folder / SYNC
    description = replace(
        description_of_run(folder, recipe.model_dump(mode="json")),
        folder=place,
        first_step=0,
        source="",
    )
    start = _start_time(folder)
    if is_locked(folder):
        log = log.without_latest_step()
    try:
        import_tracker(tracker)
        _make_room(place, tracker)
        run = open_run(tracker, description, replaces=True)
        for step, values in log.values.items():
            run.log(values, step, start + log.seconds[step])
        run.end(results_of_run(folder), read_status(folder).get("status") == "done")
    except NearfarError:
        raise
    except Exception as error:
        reason = " ".join(redact(f"{type(error).__name__}: {error}").split())[:300]
        raise NearfarError(
            f"{tracker.kind} did not take the run in {folder} ({reason}); the log is as it was, so"
            " run the same command again"
        ) from error
    return SyncedRun(description.run_id, log, place)


def read_values(path: Path) -> Log:
    """Returns the finite values of a log by step. Of two values of a metric at one step, the later
    one counts.
    """
    values: dict[int, dict[str, float]] = {}
    seconds: dict[int, float] = {}
    damaged_lines = 0
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            step, time = int(record["step"] or 0), float(record["time_seconds"])
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged_lines += 1
            continue
        values.setdefault(step, {}).update(
            (name, value) for name, value in record.items() if name != "step" and _is_number(value)
        )
        seconds[step] = max(time, seconds.get(step, 0.0))
    return Log({step: values[step] for step in sorted(values)}, seconds, damaged_lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _make_room(place: Path, tracker: Tracker) -> None:
    """Removes the files of a former call, which the new ones replace."""
    place.mkdir(exist_ok=True)
    if isinstance(tracker, WandbTracker):
        shutil.rmtree(place / "wandb", ignore_errors=True)
    if isinstance(tracker, TensorboardTracker):
        shutil.rmtree(place / "tensorboard", ignore_errors=True)


def _start_time(folder: Path) -> float:
    """Returns when the run began, in seconds since 1970."""
    start = read_json_object(folder / "environment.json").get("started")
    try:
        return datetime.fromisoformat(str(start)).timestamp()
    except ValueError:
        return (folder / "environment.json").stat().st_mtime
