"""The folder of a new index: written beside its place, then moved there in one step.

No other process can change the folder meanwhile.
"""

import contextlib
import glob
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import BadFolder
from trainer.retrieval.indexes.manifest import MANIFEST, belongs_to_index
from trainer.storage.atomic import (
    check_replaceable,
    flush_to_disk,
    move_into_place,
    partial_folder,
)
from trainer.storage.locks import exclusive


def check_index_folder(folder: Path, replace: bool) -> None:
    """Raises BadFolder when an index cannot be written to `folder`; call it before slow work."""
    check_replaceable(folder, "index")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and not replace:
        raise BadFolder(
            f"{folder} is not empty; choose another place for the index, or give --replace to"
            " replace the index in it"
        )
    if names and (MANIFEST not in names or not all(map(belongs_to_index, names))):
        raise BadFolder(
            f"{folder} holds something other than an index, which is never removed; choose another"
            " place, or move that"
        )


@contextlib.contextmanager
def new_index(folder: Path, replace: bool) -> Iterator[Path]:
    """Context with a new folder beside `folder`, which replaces it at the end.

    After an error the new folder is removed. Folders that killed processes have left are removed
    too. Raises BadFolder as `check_index_folder` does, before and after, and when the disk cannot
    be written.
    """
    check_index_folder(folder, replace)
    with _folder_beside(folder) as partial:
        yield partial
        check_index_folder(folder, replace)  # again: building takes time
        with exclusive(folder) if folder.exists() else contextlib.nullcontext():
            move_into_place(partial, folder)


@contextlib.contextmanager
def changed_folder(folder: Path) -> Iterator[Path]:
    """Context like `new_index`, for the new state of an index, or of all views. Meanwhile no other
    process can change `folder`; readers that have it open keep what they had.
    """
    check_replaceable(folder, "index")
    with exclusive(folder), _folder_beside(folder) as partial:
        yield partial
        flush_to_disk(partial)
        move_into_place(partial, folder)


@contextlib.contextmanager
def _folder_beside(folder: Path) -> Iterator[Path]:
    # The pattern leaves out folders of other indexes, such as .index.v2.01234567.partial.
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}.partial"):
        with contextlib.suppress(OSError, BadFolder), exclusive(leftover):
            shutil.rmtree(leftover)
    partial = partial_folder(folder)
    try:
        with exclusive(partial), cannot_write(folder):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def cannot_write(folder: Path) -> Iterator[None]:
    """Context that turns an error of the system into BadFolder when the disk cannot be written."""
    try:
        yield
    except OSError as error:
        raise BadFolder(f"{folder} cannot be written: {error}; nothing was changed") from error
