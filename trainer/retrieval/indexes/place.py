"""Where an index comes to be: written beside its place, which it takes in one step; no other
process changes it meanwhile.
"""

import contextlib
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import BadFolder
from trainer.retrieval.indexes.manifest import MANIFEST, belongs_to_index
from trainer.storage.into_place import check_exchangeable, move_into_place, partial_folder


def check_index_folder(folder: Path, replace: bool) -> None:
    """Raises BadFolder when an index cannot be written to `folder`; to be called before anything
    slow.
    """
    check_exchangeable(folder, "index")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there and not replace:
        raise BadFolder(
            f"{folder} is not empty; choose another place for the index, or replace the one there"
            " with --replace"
        )
    if there and (MANIFEST not in there or not all(map(belongs_to_index, there))):
        raise BadFolder(
            f"{folder} holds something other than an index, which --replace will not remove; choose"
            " another place"
        )


@contextlib.contextmanager
def new_index(folder: Path, replace: bool) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place when all went well and is removed
    otherwise.

    What processes that were killed have left there is removed too. Raises BadFolder where
    `check_index_folder` does, before and after, and where the disk cannot be written to.
    """
    check_index_folder(folder, replace)
    for left in folder.parent.glob(
        f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}.partial"
    ):  # no other's, such as .index.v2.01234567.partial
        with contextlib.suppress(OSError, BadFolder), locked(left):
            shutil.rmtree(left)
    partial = partial_folder(folder)
    try:
        with locked(partial), cannot_write(folder):
            yield partial
            check_index_folder(folder, replace)  # again: building took its time
            with locked(folder) if folder.exists() else contextlib.nullcontext():
                move_into_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def cannot_write(folder: Path) -> Iterator[None]:
    """Raises BadFolder in the place of what the system says when the disk is full or read-only."""
    try:
        yield
    except OSError as error:
        raise BadFolder(f"{folder} cannot be written: {error}; nothing was changed") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """This process alone changes `folder`.

    Raises BadFolder while another does, also on another thread, when it was replaced or removed
    meanwhile, and where folders cannot be locked.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _cannot_open(folder, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = folder.stat()
        except BlockingIOError as error:
            raise BadFolder(
                f"{folder} is being changed by another process; wait until it has ended"
            ) from error
        except FileNotFoundError as error:
            raise _cannot_open(folder, error) from error
        except OSError as error:
            raise BadFolder(
                f"{folder} cannot be locked against other processes ({error.strerror}); put the"
                " index on a disk whose folders can"
            ) from error
        if not os.path.samestat(os.fstat(handle), there):
            raise BadFolder(
                f"{folder} was replaced by another process meanwhile; nothing was changed"
            )
        yield
    finally:
        os.close(handle)


def _cannot_open(folder: Path, error: OSError) -> BadFolder:
    if isinstance(error, FileNotFoundError):
        return BadFolder(
            f"{folder} was removed meanwhile, by another process that writes the same index"
            " perhaps; nothing was changed: try again"
        )
    return BadFolder(f"{folder} cannot be opened: {error.strerror}; nothing was changed")
