"""Locks of folders. A lock ends with its process in every case, so no dead process has a lock.

The folder of a run, a pipeline or a mining job has a lock file that names the holder. The folder of
an index is locked itself, without a lock file.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.errors import BadFolder

LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""Errors of file systems without locks."""
_TRIES, _RETRY_SECONDS = 40, 0.01


@dataclass(frozen=True)
class FolderLock:
    """The lock of a folder by this process. It is a context manager that releases the lock.

    A child process does not inherit it, unless it gets `descriptor`.
    """

    descriptor: int

    def write_holder(self, **details: Any) -> None:
        """Writes the holder into the lock file: host, process, time and `details`."""
        holder = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        text = json.dumps({**holder, **details}, indent=2, ensure_ascii=False) + "\n"
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode(), 0)

    def release(self) -> None:
        """Releases the lock."""
        _unlock(self.descriptor)

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def lock_folder(folder: Path, in_use: str) -> FolderLock:
    """Locks a folder.

    Raises BadFolder if another process has the lock. `in_use` is the message, in which `{folder}`
    and `{holder}` are replaced. On a file system without locks it warns and locks nothing.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(descriptor)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BadFolder(in_use.format(folder=folder, holder=holder_of(folder))) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise
        warnings.warn(
            f"the file system of {folder} has no locks: a second process in this folder would not"
            " be noticed",
            stacklevel=2,
        )
    lock = FolderLock(descriptor)
    lock.write_holder()
    return lock


def _take(descriptor: int) -> None:
    """Locks a file. Tries again for a while, as `is_locked` has the lock for a moment too."""
    for attempt in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt + 1 == _TRIES:
                raise
            time.sleep(_RETRY_SECONDS)


def is_locked(folder: Path) -> bool:
    """Returns True if a live process has the lock of a folder.

    On a file system without locks it returns False.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # The lock is shared, so that two processes that check at the same time do not take each
        # other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def holder_of(folder: Path) -> str:
    """Describes the process that has the lock of a folder."""
    try:
        holder = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        process = f"process {holder['process']} on {holder['host']} since {holder['since']}"
        if "stage" not in holder:
            return process
        return f"{process}, at stage {holder['stage']} (process {holder['stage_process']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextlib.contextmanager
def exclusive(folder: Path, is_shared: bool = False) -> Iterator[None]:
    """Within the block, only this thread of this process can change an index. With `is_shared`,
    others may be in such a block too, but none in one without.

    Raises BadFolder if another process changes the index, if the folder was replaced or removed in
    the meantime, or if folders cannot be locked.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _cannot_open(folder, error) from error
    try:
        _lock_itself(folder, descriptor, is_shared)
        yield
    finally:
        _unlock(descriptor)


def _lock_itself(folder: Path, descriptor: int, is_shared: bool) -> None:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        status = folder.stat()
    except BlockingIOError as error:
        raise BadFolder(
            f"{folder} is being changed by another process; wait until it has ended"
        ) from error
    except FileNotFoundError as error:
        raise _cannot_open(folder, error) from error
    except OSError as error:
        raise BadFolder(
            f"{folder} cannot be locked against other processes ({error.strerror}); put the index"
            " on a disk whose folders can be locked"
        ) from error
    if not os.path.samestat(os.fstat(descriptor), status):
        raise BadFolder(
            f"{folder} was replaced by another process in the meantime; nothing was changed: try"
            " again"
        )


def _cannot_open(folder: Path, error: OSError) -> BadFolder:
    if isinstance(error, FileNotFoundError):
        return BadFolder(
            f"{folder} was removed in the meantime, perhaps by another process that writes the same"
            " index; nothing was changed: try again"
        )
    return BadFolder(f"{folder} cannot be opened: {error.strerror}; nothing was changed")


def _unlock(descriptor: int) -> None:
    """Releases the lock before closing, because a forked child would keep it otherwise."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
