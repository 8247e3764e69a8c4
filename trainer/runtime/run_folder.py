"""`runs/<name>/`: made once, held by one process, never overwritten.

    recipe.yaml  environment.json  log.jsonl  evaluation.json  report.html  status.json
    checkpoints/  model/

A file lock held for the life of the process tells a live run from a dead one; it vanishes with the
process, however that ends.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from trainer.errors import BadFolder, Interrupted
from trainer.runtime.environment import HIDDEN, describe_environment, redact

Status = Literal["done", "stopped", "failed"]
LOCK = ".lock"


def write_atomically(path: Path, text: str) -> None:
    """Writes a small file so that a reader, or a crash, sees the old one or the new one whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a small JSON file atomically, without secrets."""
    # A path of the command line that is not UTF-8 comes as lone surrogates, which no file can hold.
    write_atomically(path, redact(_json(value)).encode("utf-8", "replace").decode())


@dataclass
class RunFolder:
    """One run's folder, locked by this process. A context manager: leaving it writes `status.json`
    and frees the lock.
    """

    path: Path
    _lock: int = field(repr=False)
    _started: float = field(default_factory=time.monotonic, repr=False)
    _finished: bool = field(default=False, repr=False)

    @classmethod
    def create(
        cls,
        path: Path,
        recipe_yaml: str,
        command: Sequence[str],
        data_fingerprint: dict[str, Any],
        replace: bool = False,
    ) -> "RunFolder":
        """A new run folder with `recipe.yaml` and `environment.json` in it, no secrets in either.

        With `replace`, a former run of that name is moved to `<name>.replaced-<time>`; nothing is
        ever deleted. Raises BadFolder, having written nothing, when a live run holds the folder, it
        is not empty, or it cannot be made.
        """
        path = Path(path)
        check_run_folder(path, replace)
        try:
            if replace and path.is_dir() and any(path.iterdir()):
                path.rename(
                    path.with_name(f"{path.name}.replaced-{datetime.now():%Y%m%d-%H%M%S-%f}")
                )
            path.mkdir(parents=True, exist_ok=True)
            run = cls(path, take_lock(path))
            clean = redact(recipe_yaml)
            note = (
                f"# {HIDDEN} stands where a secret was; put it back before running this file"
                " again.\n"
                if clean != recipe_yaml
                else ""
            )
            write_atomically(run.recipe_path, note + clean)
            write_json(
                run.environment_path, {**describe_environment(command), "data": data_fingerprint}
            )
        except OSError as error:
            raise BadFolder(
                f"cannot write to the run folder {path}: {error.strerror}; choose another place"
                " with output=FOLDER"
            ) from error
        return run

    @classmethod
    def of_another_rank(cls, path: Path) -> "RunFolder":
        """The folder that the first rank holds, for one that writes nothing into it."""
        return cls(Path(path), -1, _finished=True)

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe; running it repeats the run."""
        return self.path / "recipe.yaml"

    @property
    def environment_path(self) -> Path:
        """Machine, versions, git state, command, data fingerprint."""
        return self.path / "environment.json"

    @property
    def log_path(self) -> Path:
        """One JSON object a line: the truth about the run."""
        return self.path / "log.jsonl"

    @property
    def evaluation_path(self) -> Path:
        """Before, after and BM25 on the test queries."""
        return self.path / "evaluation.json"

    @property
    def report_path(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go; made by whoever writes the first."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The finished model; loads in sentence-transformers."""
        return self.path / "model"

    def finish(self, status: Status, **details: Any) -> None:
        """Writes `status.json` and frees the folder; the first call counts."""
        if self._finished:
            return
        self._finished = True
        ended = datetime.now().astimezone().isoformat(timespec="seconds")
        record = {
            "status": status,
            "ended": ended,
            "seconds": round(time.monotonic() - self._started, 1),
            **details,
        }
        try:
            write_json(self.path / "status.json", record)
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(
                    self._lock, fcntl.LOCK_UN
                )  # a forked worker that outlives us must not hold it on
            os.close(self._lock)

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
        else:
            interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
            self.finish(
                "stopped" if interrupted else "failed", error=f"{type(error).__name__}: {error}"
            )


def check_run_folder(path: Path, replace: bool = False) -> None:
    """Raises BadFolder if `path` cannot become a run folder; writes nothing. Call it before minutes
    are spent reading data.
    """
    path = Path(path)
    if not _is_there(path) and os.access(path.absolute().parent, os.X_OK) and path.is_symlink():
        raise BadFolder(f"{path} is a link to nothing; remove it or choose another name=NAME")
    if _is_there(path) and not path.is_dir():
        raise BadFolder(
            f"{path} is a file, not a folder; choose another name=NAME or output=FOLDER"
        )
    if not _is_there(path):
        _check_can_be_made(path)
        return
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadFolder(f"{path} is read-only; choose another place with output=FOLDER")
    if is_held(path):
        raise _in_use(path)
    contents = [entry.name for entry in path.iterdir() if entry.name != LOCK]
    if not contents:
        return
    if "environment.json" not in contents:
        raise BadFolder(
            f"{path} holds files that are not a run of nearfar ({', '.join(sorted(contents)[:3])},"
            " ...); choose another name=NAME"
        )
    if not replace:
        raise BadFolder(
            f"{path} already holds {_describe(path)}; choose another name=NAME, or pass --replace"
            " to move it aside and start anew"
        )


def is_held(path: Path) -> bool:
    """Whether a live run has this folder. On a file system without locks one cannot know: False."""
    try:
        lock = os.open(path / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a `log.jsonl` in order. Lines a crash or a full disk cut short are passed
    over: the rest is still true.
    """
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _is_there(path: Path) -> bool:
    """Whether something is at `path`; False where we may not look."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _check_can_be_made(path: Path) -> None:
    parent = path.absolute().parent
    while not _is_there(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise BadFolder(
            f"{path} cannot be made: {parent} is a file; choose another place with output=FOLDER"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadFolder(
            f"{path} cannot be made: {parent} is read-only; choose another place with output=FOLDER"
        )


def _describe(path: Path) -> str:
    try:
        status = json.loads((path / "status.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return "a run that was killed before its end"
    return {
        "done": "a finished run",
        "stopped": "a run that was stopped",
        "failed": "a run that failed",
    }.get(str(status), "a run")


def take_lock(path: Path, in_use: Callable[[Path], BadFolder] | None = None) -> int:
    """An open file that holds the lock of folder `path`; raises what `in_use` says when another
    process has it.

    It is inherited by no program started from here, and lives as long as this process.
    """
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise (in_use or _in_use)(path) from error
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            os.close(lock)
            raise
        warnings.warn(
            f"the file system of {path} has no locks: a second run in this folder would not be"
            " noticed",
            stacklevel=2,
        )
    write_holder(lock)
    return lock


def write_holder(lock: int, **details: Any) -> None:
    """Writes into a lock file who holds it."""
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    os.ftruncate(lock, 0)
    os.pwrite(lock, _json({**holder, **details}).encode(), 0)


def holder_of(path: Path) -> str:
    """Who holds the lock of folder `path`, in words."""
    try:
        holder = json.loads((path / LOCK).read_text(encoding="utf-8"))
        who = f"process {holder['process']} on {holder['host']} since {holder['since']}"
        return (
            f"{who}, at stage {holder['stage']} (process {holder['stage_process']})"
            if "stage" in holder
            else who
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _in_use(path: Path) -> BadFolder:
    return BadFolder(
        f"{path} is in use by a run: {holder_of(path)}; wait for it, stop it, or choose another"
        " name=NAME"
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
