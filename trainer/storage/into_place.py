"""A folder is written beside its place, and takes it in one step: whole or not at all, whenever the
process ends.
"""

import ctypes
import errno
import os
import secrets
from pathlib import Path

from trainer.errors import BadFolder

_CURRENT_FOLDER, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def check_exchangeable(folder: Path, what: str) -> None:
    """Raises BadFolder where no folder can take this place, `what` it would hold: a file, a link,
    the working folder, a mounted disk.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BadFolder(
            f"{folder} is a file or a link, not a folder; choose another place for the {what}"
        )
    if folder.resolve() == Path.cwd() or os.path.ismount(folder):
        raise BadFolder(
            f"{folder} cannot be exchanged while it is the working folder or a mounted disk; name a"
            " folder inside it"
        )


def partial_folder(folder: Path) -> Path:
    """A new folder beside `folder`, to take its place once whole. Raises BadFolder where none can
    be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
        partial.mkdir()
    except OSError as error:
        raise BadFolder(
            f"cannot write beside {folder}: {error.strerror}; choose another place"
        ) from error
    return partial


def move_into_place(partial: Path, folder: Path) -> None:
    """`partial` becomes `folder`, at once; what was there is then at `partial`."""
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty:
        _exchange(partial, folder)
    else:
        partial.rename(folder)
    to_disk(folder.parent)


def moved_where_nothing_is(partial: Path, folder: Path) -> bool:
    """Whether `partial` has become `folder`, at once: only where there is nothing, or an empty
    folder, and otherwise both stay as they are.
    """
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    to_disk(folder.parent)
    return True


def state_of(folder: Path) -> tuple[int, int, int] | None:
    """What tells a folder from one that has taken its place; None where there is none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def to_disk(path: Path) -> None:
    """Waits until a file or folder is on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> None:
    """Two folders exchange their names: in one step where the system can, else in three."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if (
        rename is not None
        and rename(
            _CURRENT_FOLDER, os.fsencode(one), _CURRENT_FOLDER, os.fsencode(other), _EXCHANGE
        )
        == 0
    ):
        return
    former = one.with_name(f"{one.name}.former")
    other.rename(former)
    try:
        one.rename(other)
    except BaseException:
        former.rename(other)
        raise
    former.rename(one)
