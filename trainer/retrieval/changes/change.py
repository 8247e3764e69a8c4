"""Adds, replaces and deletes documents, given the names of files: in one index, or in all views of
a folder together.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from trainer.data.readers.corpus import read_corpus
from trainer.data.readers.image_corpus import read_image_corpus
from trainer.data.readers.report import ReadReport
from trainer.errors import BadData, BadFolder, BadRecipe
from trainer.progress import phase
from trainer.retrieval.changes.rewrite import write_with, write_without
from trainer.retrieval.encoding.encode import Encoding
from trainer.retrieval.indexes.index import Index, IndexManifest, RewritableIndex
from trainer.retrieval.indexes.index_corpus import (
    IndexSummary,
    Wish,
    left_out_of,
    model_of_index,
    open_index,
)
from trainer.retrieval.indexes.manifest import MANIFEST
from trainer.retrieval.indexes.place import changed_folder, check_index_folder
from trainer.retrieval.indexes.views import VIEWS, check_no_view, check_together, views_of
from trainer.retrieval.token_index import change as token_change
from trainer.retrieval.token_index.index import TokenIndex
from trainer.strategies import devices

Change = Callable[[Index, Path, bool], IndexManifest]
"""Takes an index, the folder to which its new state is written, and whether it is a view."""


def add_documents(
    index: Path,
    corpus: Path,
    *,
    model: str | None = None,
    id_prefix: str = "",
    precision: Wish = "fp32",
    max_bad_rows_ratio: float = 0.001,
    replace: bool = False,
) -> list[IndexSummary]:
    """Adds the documents of a corpus to an index, or to all views of a folder. Those of views of
    images are read as images, and those of others as texts.

    `model` is the new place of the index's model, if it was moved. With `replace`, documents that
    have the same ids are deleted. Raises BadData when an id is already in the index otherwise.
    """
    report = ReadReport(str(corpus))

    def add_to(old_index: Index, folder: Path, is_view: bool) -> IndexManifest:
        nonlocal report
        report = ReadReport(str(corpus))
        accelerator = devices.find_accelerator()
        with phase("loading the model"):
            encoder = model_of_index(old_index.folder, old_index.manifest, model).to(accelerator)
        encoding = Encoding(encoder, devices.choose_precision(precision, accelerator))
        read = read_image_corpus if old_index.has_images else read_corpus
        documents = read(corpus, report, max_bad_rows_ratio, id_prefix)
        if isinstance(old_index, TokenIndex):
            return token_change.add(folder, encoding, documents, replace, one_segment=is_view)
        assert isinstance(old_index, RewritableIndex)
        return write_with(old_index, folder, encoding, documents, replace)

    manifests = _change(index, add_to, model)
    left_out = left_out_of(report)
    return [IndexSummary(folder, manifest, left_out) for folder, manifest in manifests.items()]


def delete_documents(index: Path, ids: Iterable[str]) -> list[IndexSummary]:
    """Deletes documents from an index, or from all views of a folder.

    If an id is not in the index, none is deleted.
    """
    deleted_ids = frozenset(ids)

    def delete_from(old_index: Index, folder: Path, is_view: bool) -> IndexManifest:
        if isinstance(old_index, TokenIndex):
            return token_change.delete(folder, deleted_ids, one_segment=is_view)
        assert isinstance(old_index, RewritableIndex)
        return write_without(old_index, folder, deleted_ids)

    manifests = _change(index, delete_from)
    return [IndexSummary(folder, manifest, {}) for folder, manifest in manifests.items()]


def _change(index: Path, change: Change, model: str | None = None) -> dict[Path, IndexManifest]:
    """Changes an index, or all views of a folder or none; returns the new manifest of each."""
    check_no_view(index)
    if views_of(index):
        return _change_views(index, change, model)
    old_index = open_index(index)
    if isinstance(old_index, TokenIndex):
        return {index: change(old_index, index, False)}
    check_index_folder(index, replace=True)
    with changed_folder(index) as new_folder:
        return {index: change(open_index(index), new_folder, False)}


def _change_views(folder: Path, change: Change, model: str | None) -> dict[Path, IndexManifest]:
    """All new views are written beside the old ones, and take their place together."""
    with changed_folder(folder / VIEWS) as new_folder:
        views = views_of(folder)
        if model is not None and len(views) > 1:
            raise BadRecipe(
                f"--model names one model, but {folder} has {len(views)} views; build the view of"
                " the moved model again"
            )
        indexes = _changeable_views(folder, views)
        manifests = {}
        for name, place in views.items():
            (new_folder / name).mkdir()
            if isinstance(indexes[name], TokenIndex):
                _link_files(indexes[name], new_folder / name)
            try:
                manifests[place] = change(indexes[name], new_folder / name, True)
            except BadData as error:
                if str(new_folder) not in str(error):
                    raise
                raise BadData(str(error).replace(str(new_folder / name), str(place))) from error
        check_together([open_index(new_folder / name) for name in views])
        return manifests


def _changeable_views(folder: Path, views: dict[str, Path]) -> dict[str, Index]:
    """Returns the open views. Raises BadFolder if anything else is among them, which would be lost,
    or if a view cannot be changed.
    """
    names = {path.name for path in (folder / VIEWS).iterdir()}
    foreign_names = sorted(name for name in names - views.keys() if not name.endswith(".partial"))
    if foreign_names:
        raise BadFolder(
            f"{folder / VIEWS} holds something other than views: {foreign_names[0]!r}; move it to"
            " another place, and then change the documents"
        )
    indexes = {name: open_index(place) for name, place in views.items()}
    for place in views.values():
        check_index_folder(place, replace=True)
    return indexes


def _link_files(index: Index, folder: Path) -> None:
    """Puts the files of an index into another folder. They never change, so links are enough."""
    for name in (*index.manifest.files, MANIFEST):
        try:
            os.link(index.folder / name, folder / name)
        except OSError:  # a file system without links
            shutil.copyfile(index.folder / name, folder / name)
