"""`tracking.json`: what a continued run must know so that its trackers see one run.

The log is cut off at the checkpoint that a run continues from. TensorBoard forgets the steps after
it too. W&B cannot, so what it was told before is not told again.
"""

import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer.runtime.attempts import write_json
from trainer.runtime.log_file import log_records

_FILE, _LOG = "tracking.json", "log.jsonl"


@dataclass(frozen=True)
class Course:
    """The course of a run as its trackers know it."""

    run_id: str
    """The id of the run, the same in all attempts."""
    latest_steps: dict[str, int] = field(default_factory=dict)
    """The latest step that was logged, by metric."""
    first_step: int = 0
    """The step at which this attempt continues."""


def read_course(run_folder: Path) -> Course:
    """Returns the course of a run.

    A run without one gets an id, which is stored if the folder can be written to. It is a digest of
    `environment.json`. So it is the same for a run that was moved, and another for one that was
    started again.
    """
    try:
        content = json.loads((run_folder / _FILE).read_text(encoding="utf-8"))
        steps = dict(content["latest_steps"])
        return Course(str(content["run_id"]), steps, int(content["first_step"]))
    except (OSError, ValueError, KeyError, TypeError):
        course = Course(_new_id(run_folder))
        with suppress(OSError):
            write_json(run_folder / _FILE, asdict(course))
        return course


def keep_course(run_folder: Path, first_step: int) -> None:
    """Stores the latest steps of the log, before it is cut off at `first_step`.

    Does nothing if no tracker has seen the run.
    """
    if not (run_folder / _FILE).exists():
        return
    course = read_course(run_folder)
    latest = dict(course.latest_steps)
    for record in log_records(run_folder / _LOG):
        for name in record.keys() - {"step", "time_seconds"}:
            latest[name] = max(latest.get(name, -1), int(record["step"] or 0))
    write_json(run_folder / _FILE, asdict(Course(course.run_id, latest, first_step)))


def sweep_run_id() -> str | None:
    """Returns the id that an agent of a W&B sweep has chosen for this run; None without one."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def _new_id(run_folder: Path) -> str:
    if (run_id := sweep_run_id()) is not None:
        return run_id
    try:
        content = (run_folder / "environment.json").read_bytes()
    except OSError:
        return secrets.token_hex(4)
    return hashlib.sha256(content).hexdigest()[:8]
