"""Reads what runs, what waits, and how the other runs ended."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from trainer.errors import BadFolder
from trainer.runs.job_states import job_states
from trainer.runs.latest import Latest, is_count, read_latest
from trainer.runtime.attempts import (
    ATTEMPTS,
    has_run,
    read_attempts,
    read_json_object,
    read_status,
    validation_limitation,
)
from trainer.storage.locks import holder_of, is_locked

State = Literal["running", "waiting", "done", "stopped", "preempted", "failed", "killed"]
_ENDS: tuple[State, ...] = ("done", "stopped", "preempted", "failed")
_WAITING_JOBS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED")
_KILL_REASON = "its process was killed, or its machine went down"


@dataclass(frozen=True)
class RunOverview:
    """One row of `nearfar runs`. None stands for what the folder does not say."""

    name: str
    folder: Path
    state: State
    resume_count: int
    """How often it was started again."""
    latest: Latest
    total_steps: int | None
    start: datetime | None
    """The first start."""
    seconds: float | None
    """The time of all attempts together."""
    reason: str | None
    """Why it ended, what it waits for, or which process runs it."""
    exit_code: int | None
    job: str | None
    """The Slurm job of the latest attempt."""
    score_limitation: str
    """Why the best nDCG@10 is too high; "" if it is not, or if the folder does not say so."""
    next_command: str | None
    """The command that continues the run, if it has ended early."""

    def record(self) -> dict[str, Any]:
        """Returns the row as JSON values."""
        start = self.start.isoformat() if self.start else None
        values = {**asdict(self), **asdict(self.latest)}
        del values["latest"]
        return {**values, "folder": str(self.folder), "start": start}


def read_overviews(folder: Path) -> list[RunOverview]:
    """Returns the runs in a folder, or the one run of a run folder, the latest start first.

    Raises BadFolder if the folder cannot be read.
    """
    try:
        paths = [folder] if has_run(folder) else list(folder.iterdir())
    except OSError as error:
        raise BadFolder(
            f"{folder} cannot be read: {error.strerror}; give the folder that contains your runs,"
            " which is `output` in their recipes (default: runs)"
        ) from error
    runs = [_RunFiles(path) for path in paths if _is_run(path)]
    jobs = job_states(run.job for run in runs if run.job is not None)
    runs.sort(key=lambda run: (run.start_of(run.last), run.path.name), reverse=True)
    return [run.overview(jobs) for run in runs]


class _RunFiles:
    """The files of one run folder that say how it goes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # The order counts: a run writes its end before it releases the lock, and its start after
        # it has taken the lock.
        self.is_running = is_locked(path)
        self.status = read_status(path)
        *former, last = read_attempts(path) or [_environment(path)]
        self.attempts = [*former, {**self.status, **last}]
        if not self._has_end:
            self.is_running = is_locked(path)

    @property
    def last(self) -> Mapping[str, Any]:
        return self.attempts[-1]

    @property
    def job(self) -> str | None:
        job = self.last.get("job")
        return job if isinstance(job, str) else None

    @property
    def _has_end(self) -> bool:
        return self.last.get("status") in _ENDS

    def start_of(self, attempt: Mapping[str, Any]) -> float:
        """Returns the start of an attempt in seconds, for sorting."""
        start = _time(attempt.get("started"))
        return start.timestamp() if start else _change_time(self.path / "environment.json")

    def overview(self, jobs: Mapping[str, str]) -> RunOverview:
        state, reason = self._state(jobs.get(self.job or ""))
        has_ended = state not in ("running", "waiting")
        code = self.last.get("exit_code") if has_ended else None
        totals = (attempt.get("steps") for attempt in reversed(self.attempts))
        return RunOverview(
            name=self.path.absolute().name,
            folder=self.path,
            state=state,
            resume_count=len(self.attempts) - 1,
            latest=read_latest(self.path, self.status),
            total_steps=next((total for total in totals if is_count(total)), None),
            start=_time(self.attempts[0].get("started")),
            seconds=self._seconds(state == "running"),
            reason=reason,
            exit_code=code if is_count(code) else None,
            job=self.job,
            score_limitation=validation_limitation(self.attempts),
            next_command=self._next_command() if has_ended and state != "done" else None,
        )

    def _state(self, job_state: str | None) -> tuple[State, str | None]:
        """Returns the state and the reason for it."""
        if self.is_running:
            return "running", holder_of(self.path)
        if self.last.get("status") == "done":
            return "done", None
        if job_state in _WAITING_JOBS:
            return "waiting", f"Slurm job {self.job} is {job_state}"
        if job_state == "RUNNING":
            return "running", f"Slurm job {self.job} is RUNNING"
        if not self._has_end:
            return "killed", _KILL_REASON
        error = self.last.get("error")
        state: State = next(end for end in _ENDS if end == self.last["status"])
        return state, error if isinstance(error, str) else None

    def _seconds(self, is_running: bool) -> float | None:
        total = 0.0
        for attempt in self.attempts:
            start, end = _time(attempt.get("started")), _time(attempt.get("ended"))
            if start is None:
                return None
            if end is None and attempt is self.last:
                end = datetime.now().astimezone() if is_running else self._last_sign()
            total += (end - start).total_seconds() if end else 0.0
        return max(0.0, round(total, 1))

    def _last_sign(self) -> datetime:
        """Returns when the run last wrote something."""
        names = (ATTEMPTS, "log.jsonl", "console.txt", "environment.json")
        return datetime.fromtimestamp(
            max(_change_time(self.path / name) for name in names)
        ).astimezone()

    def _next_command(self) -> str | None:
        try:
            _, *words = shlex.split(str(self.last["command"]))
        except (KeyError, ValueError):
            return None
        rest = [word for word in words if word not in ("--resume", "--replace")]
        return shlex.join(["nearfar", *rest, "--resume"])


def _is_run(path: Path) -> bool:
    try:
        return has_run(path)
    except OSError:  # a folder that this user may not read
        return False


def _environment(path: Path) -> dict[str, Any]:
    """Returns what an old run says of its only start."""
    values = read_json_object(path / "environment.json")
    return {key: values[key] for key in ("started", "command") if key in values}


def _time(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value).astimezone()
    except (TypeError, ValueError, OverflowError):
        return None


def _change_time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
