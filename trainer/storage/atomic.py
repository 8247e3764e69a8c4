"""Files and folders that appear complete or not at all, whenever the process ends.

Each is written beside its place under a name that ends in `.partial`, flushed to the disk, and
renamed in one step.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import BadFolder

if TYPE_CHECKING:
    from torch import Tensor

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""What file systems answer that cannot flush a folder, or do not let us read it."""


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write a file to, which replaces `path` when the block ends.

    A reader, or a crash, sees the former file or the new one, never a part of it. The new file has
    the mode that the umask gives, whatever program writes it. When the block raises, `path` stays
    as it was.
    """
    partial = _partial_path(path)
    try:
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        yield partial
        if partial.stat().st_mode != mode:
            partial.chmod(mode)
        flush_to_disk(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_to_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def write_safetensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file atomically. Written by safetensors alone, it would have mode 0600
    whatever the umask.
    """
    from safetensors.torch import save_file

    with atomic_file(path) as partial:
        save_file(dict(tensors), partial, metadata=dict(metadata))


def write_link(link: Path, target: str) -> None:
    """Makes `link` a symbolic link to a folder, in place of what it linked to before."""
    partial = _partial_path(link)
    try:
        partial.symlink_to(target, target_is_directory=True)
        partial.replace(link)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the place of `folder` when the block ends.

    What was there is removed. When the block raises, it stays as it was. Raises BadFolder where no
    folder can be made.
    """
    partial = partial_folder(folder)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush_to_disk(path)
        move_into_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(folder: Path, what: str) -> None:
    """Raises BadFolder when `folder` is a file, a link, the working folder or a mounted disk: no
    folder can take its place. `what` says what it would hold.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BadFolder(
            f"{folder} is a file or a link, not a folder; choose another place for the {what}"
        )
    if folder.resolve() == Path.cwd() or os.path.ismount(folder):
        raise BadFolder(
            f"{folder} cannot be replaced while it is the working folder or a mounted disk; name a"
            " folder inside it"
        )


def partial_folder(folder: Path) -> Path:
    """A new, empty folder beside `folder`. Raises BadFolder where none can be made."""
    partial = _partial_path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise BadFolder(
            f"cannot write beside {folder}: {error.strerror}; choose another place"
        ) from error
    return partial


def move_into_place(partial: Path, folder: Path) -> None:
    """Renames `partial` to `folder` in one step. What was at `folder` is then at `partial`."""
    if folder.is_dir() and any(folder.iterdir()):
        _exchange(partial, folder)
    else:
        partial.rename(folder)
    flush_to_disk(folder.parent)


def move_if_free(partial: Path, folder: Path) -> bool:
    """Renames `partial` to `folder` in one step where nothing, or an empty folder, is. Otherwise
    both stay as they are, and the answer is False.
    """
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    flush_to_disk(folder.parent)
    return True


def folder_state(folder: Path) -> tuple[int, int, int] | None:
    """Numbers that differ once another folder has taken this one's place; None where there is
    none.
    """
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def flush_to_disk(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC or not path.is_dir():
            raise


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _exchange(one: Path, other: Path) -> None:
    """Exchanges the names of two folders: in one step where the system can, otherwise in three."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if rename is not None and rename(*names, _RENAME_EXCHANGE) == 0:
        return
    former = one.with_name(f"{one.name}.former")
    other.rename(former)
    try:
        one.rename(other)
    except BaseException:
        former.rename(other)
        raise
    former.rename(one)
