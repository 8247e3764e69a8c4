"""Where an index comes to be: written beside its place, which it takes in one step; no other
process changes it meanwhile.
"""

import contextlib
import glob
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import BadFolder
from trainer.retrieval.indexes.manifest import MANIFEST, belongs_to_index
from trainer.storage.atomic import check_replaceable, move_into_place, partial_folder
from trainer.storage.locks import exclusive


def check_index_folder(folder: Path, replace: bool) -> None:
    """Raises BadFolder when an index cannot be written to `folder`; to be called before anything
    slow.
    """
    check_replaceable(folder, "index")
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
        with contextlib.suppress(OSError, BadFolder), exclusive(left):
            shutil.rmtree(left)
    partial = partial_folder(folder)
    try:
        with exclusive(partial), cannot_write(folder):
            yield partial
            check_index_folder(folder, replace)  # again: building took its time
            with exclusive(folder) if folder.exists() else contextlib.nullcontext():
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
