"""Writes files and folders atomically: they are complete or absent, even if the process is killed.

Each is written in the same folder under a name that ends in `.partial`, flushed to the disk, and
renamed in one step.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import BadFolder

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of Linux
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a file size that is used up."""
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""Errors of file systems that cannot flush a folder, or do not allow to read it."""


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to. The file there replaces `path` when the block ends.

    A reader sees the former file or the new one, never a part of it, also after a crash. The mode
    of the new file depends only on the umask, not on the program that writes it. If the block
    raises an exception, `path` is not changed; an error of the disk names `path`.
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
    except BaseException as error:
        with contextlib.suppress(OSError):  # of a disk that is read-only
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    flush_to_disk(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def write_array(path: Path, array: "np.ndarray | np.generic") -> None:
    """Writes an array in NumPy's format atomically."""
    import numpy as np

    with atomic_file(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_safetensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file atomically, with the mode of the umask. The function of safetensors
    always uses mode 0600.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_file(path) as partial:
        try:
            save_file(dict(tensors), partial, metadata=dict(metadata))
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def write_link(link: Path, target: str) -> None:
    """Creates a symbolic link to a folder, or changes the target of an existing link."""
    partial = _partial_path(link)
    try:
        partial.symlink_to(target, target_is_directory=True)
        partial.replace(link)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder to write to. It replaces `folder` when the block ends.

    The former folder is removed. If the block raises an exception, it is not changed. Raises
    BadFolder if the new folder cannot be created.
    """
    partial = partial_folder(folder)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush_to_disk(path)
        move_into_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(folder: Path, content: str) -> None:
    """Raises BadFolder if `folder` is a file, a link, the working folder or a mounted disk, which a
    folder cannot replace. `content` names the new content in the message.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BadFolder(
            f"{folder} is a file or a link, not a folder; choose another folder for the {content}"
        )
    if folder.resolve() == Path.cwd() or os.path.ismount(folder):
        raise BadFolder(
            f"{folder} cannot be replaced while it is the working folder or a mounted disk; choose"
            " a folder inside it"
        )


def partial_folder(folder: Path) -> Path:
    """Creates an empty folder beside `folder`. Raises BadFolder if that is not possible."""
    partial = _partial_path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise BadFolder(
            f"cannot create a folder beside {folder}: {error.strerror}; choose another folder"
        ) from error
    return partial


def move_into_place(partial: Path, folder: Path) -> None:
    """Renames `partial` to `folder` in one step. A former `folder` is then at `partial`."""
    if folder.is_dir() and any(folder.iterdir()):
        _exchange(partial, folder)
    else:
        partial.rename(folder)
    flush_to_disk(folder.parent)


def move_if_free(partial: Path, folder: Path) -> bool:
    """Renames `partial` to `folder` in one step if `folder` is empty or does not exist.

    Otherwise it changes nothing and returns False.
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
    """Returns numbers that change if another folder replaces this one, or None without a folder."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def flush_to_disk(path: Path) -> None:
    """Waits until a file, or the list of files of a folder, is written to the disk."""
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


def _exchange(first: Path, second: Path) -> None:
    """Exchanges the names of two folders, in one step if the system supports it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    if rename is not None and rename(*names, _RENAME_EXCHANGE) == 0:
        return
    former = first.with_name(f"{first.name}.former")
    second.rename(former)
    try:
        first.rename(second)
    except BaseException:
        former.rename(second)
        raise
    former.rename(first)
