"""`runs/<name>/`: a folder that is created once, locked by one process and never overwritten.

    recipe.yaml  environment.json  data.json  log.jsonl  evaluation.json  report.html
    status.json  attempts.json  nodes.json  checkpoints/  model/

`attempts.json` lists every start of the run. An attempt without an end goes on, or was killed.

The process of a run keeps a file lock, which ends with the process in every case. So a folder
without a lock has no live run.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from trainer.errors import (
    BadFolder,
    Interrupted,
    NearfarError,
    OtherRankFailed,
    OutOfMemory,
    Preempted,
)
from trainer.runtime.attempts import (
    add_attempt,
    describe_run,
    read_attempts,
    update_attempt,
    write_json,
)
from trainer.runtime.environment import describe_environment
from trainer.storage.atomic import write_text
from trainer.storage.locks import LOCK, FolderLock, holder_of, is_locked, lock_folder
from trainer.storage.redaction import REDACTION, redact

Status = Literal["done", "stopped", "preempted", "failed"]
_IN_USE = "{folder} is in use by a run: {holder}; wait for it, stop it, or choose another name=NAME"


@dataclass
class RunFolder:
    """The folder of one run, locked by this process.

    It is a context manager, which writes `status.json` and releases the lock at its end.
    """

    path: Path
    _lock: FolderLock | None = field(repr=False)
    _start: float = field(default_factory=time.monotonic, repr=False)
    _is_finished: bool = field(default=False, repr=False)
    _is_consequence: bool = field(default=False, repr=False)

    @classmethod
    def create(
        cls,
        path: Path,
        recipe_yaml: str,
        command: Sequence[str],
        data_fingerprint: dict[str, Any],
        replace: bool = False,
    ) -> "RunFolder":
        """Creates a run folder with `recipe.yaml` and `environment.json`, both without secrets.

        With `replace`, a former run of that name is moved to `<name>.replaced-<time>`. Nothing is
        deleted. Raises BadFolder if a live run uses the folder, if it is not empty, or if it cannot
        be created. Nothing is written then.
        """
        path = Path(path)
        check_run_folder(path, replace)
        try:
            if replace and path.is_dir() and any(path.iterdir()):
                path.rename(
                    path.with_name(f"{path.name}.replaced-{datetime.now():%Y%m%d-%H%M%S-%f}")
                )
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, lock_folder(path, _IN_USE))
            clean = redact(recipe_yaml)
            note = (
                f"# {REDACTION} replaces a secret; write the secret there before running this file"
                " again.\n"
                if clean != recipe_yaml
                else ""
            )
            write_text(run.recipe_path, note + clean)
            write_json(
                run.environment_path, {**describe_environment(command), "data": data_fingerprint}
            )
            add_attempt(path, command)
        except OSError as error:
            raise BadFolder(
                f"cannot write to the run folder {path}: {error.strerror}; choose another folder"
                " with output=FOLDER"
            ) from error
        return run

    @classmethod
    def reopen(cls, path: Path, command: Sequence[str]) -> "RunFolder":
        """Locks the folder of a run that is to continue, and records the attempt.

        Raises BadFolder if a live run uses it, or if it cannot be written to.
        """
        path = Path(path)
        check_run_folder(path, resume=True)
        try:
            run = cls(path, lock_folder(path, _IN_USE))
            add_attempt(path, command)
            run.status_path.unlink(missing_ok=True)
        except OSError as error:
            raise BadFolder(
                f"cannot write to the run folder {path}: {error.strerror}; make room there, or"
                " check its permissions"
            ) from error
        return run

    @classmethod
    def for_other_rank(cls, path: Path) -> "RunFolder":
        """Returns the folder that the first rank has locked, for a rank that writes nothing."""
        return cls(Path(path), None, _is_finished=True)

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe. Running this file repeats the run."""
        return self.path / "recipe.yaml"

    @property
    def environment_path(self) -> Path:
        """The machine, versions, git state, command and data fingerprint."""
        return self.path / "environment.json"

    @property
    def log_path(self) -> Path:
        """All logged values, one JSON object per line."""
        return self.path / "log.jsonl"

    @property
    def evaluation_path(self) -> Path:
        """Results on the test queries for BM25 and for the model before and after training."""
        return self.path / "evaluation.json"

    @property
    def status_path(self) -> Path:
        """How the latest attempt ended; missing while it goes on, and if it was killed."""
        return self.path / "status.json"

    @property
    def identity_path(self) -> Path:
        """What the run is made of: a continued run must be made of the same."""
        return self.path / "identity.json"

    @property
    def baselines_path(self) -> Path:
        """Results on the test queries from before training."""
        return self.path / "baselines.json"

    @property
    def report_path(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints. It is created with the first checkpoint."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder of the trained model, which sentence-transformers can load."""
        return self.path / "model"

    def finish(self, status: Status, **details: Any) -> None:
        """Writes `status.json` with details and releases the lock. Only the first call counts."""
        if self._is_finished:
            return
        self._is_finished = True
        end = datetime.now().astimezone().isoformat(timespec="seconds")
        seconds = round(time.monotonic() - self._start, 1)
        record = {"status": status, "ended": end, "seconds": seconds, **details}
        try:
            write_json(self.status_path, record)
            skipped_keys = ("seconds", "selection")
            details = {key: record[key] for key in record if key not in skipped_keys}
            update_attempt(self.path, details)
        except OSError:
            if status == "done":
                raise
            # The run ends with its own error: the disk is full, or the folder is gone.
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def finish_at_once(self, error: str, exit_code: int, **details: Any) -> None:
        """Writes `status.json`, also over one that says no more than that another rank failed."""
        self._is_finished &= not self._is_consequence
        self.finish(
            "preempted" if exit_code == Preempted.exit_code else "failed",
            error=error,
            exit_code=exit_code,
            **details,
        )

    def note(self, **details: Any) -> None:
        """Adds details to the record of this attempt."""
        if self._lock is not None:
            update_attempt(self.path, details)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """All attempts, the first one first."""
        return read_attempts(self.path)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish("done")
            return
        self._is_consequence = isinstance(error, OtherRankFailed)
        is_stop = isinstance(error, Interrupted | KeyboardInterrupt)
        status: Status = "stopped" if is_stop else "failed"
        self.finish(
            "preempted" if isinstance(error, Preempted) else status,
            error=f"{type(error).__name__}: {error}",
            exit_code=error.exit_code if isinstance(error, NearfarError) else 1,
            **(error.details if isinstance(error, OutOfMemory) else {}),
        )


def check_run_folder(path: Path, replace: bool = False, resume: bool = False) -> None:
    """Raises BadFolder if `path` cannot become a run folder. Writes nothing. With `resume`, it may
    contain a run.

    It should be called before data is read, which can take minutes.
    """
    path = Path(path)
    if not _exists(path) and os.access(path.absolute().parent, os.X_OK) and path.is_symlink():
        raise BadFolder(
            f"{path} is a link whose target does not exist; remove it or choose another name=NAME"
        )
    if _exists(path) and not path.is_dir():
        raise BadFolder(
            f"{path} is a file, not a folder; choose another name=NAME or output=FOLDER"
        )
    if not _exists(path):
        _check_can_be_made(path)
        return
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadFolder(f"{path} is read-only; choose another folder with output=FOLDER")
    if is_locked(path):
        raise BadFolder(_IN_USE.format(folder=path, holder=holder_of(path)))
    contents = [entry.name for entry in path.iterdir() if entry.name != LOCK]
    if not contents:
        return
    if "environment.json" not in contents:
        raise BadFolder(
            f"{path} contains files that are not a run of nearfar"
            f" ({', '.join(sorted(contents)[:3])}, ...); choose another name=NAME"
        )
    if not replace and not resume:
        raise BadFolder(
            f"{path} already contains {describe_run(path)}; pass --resume to continue it if it is"
            " not finished, --replace to move it aside and start a new one, or choose another"
            " name=NAME"
        )


def _exists(path: Path) -> bool:
    """Returns whether `path` exists, or False if permissions do not allow to check."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _check_can_be_made(path: Path) -> None:
    parent = path.absolute().parent
    while not _exists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise BadFolder(
            f"{path} cannot be created: {parent} is a file; choose another folder with"
            " output=FOLDER"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadFolder(
            f"{path} cannot be created: {parent} is read-only; choose another folder with"
            " output=FOLDER"
        )
