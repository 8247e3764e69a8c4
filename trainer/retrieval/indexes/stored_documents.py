"""The documents of an index on disk: JSON Lines, and the start of each line.

One document can be read without the others.
"""

import json
import os
import weakref
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int64

from trainer.batch import identity
from trainer.data.readers.corpus import Document
from trainer.errors import BadData, BadFolder
from trainer.progress import count_items
from trainer.retrieval.indexes.manifest import readable
from trainer.storage.atomic import atomic_file, write_array
from trainer.vectors.ragged import document_ranges

_BYTES_AT_ONCE = 1 << 20
_BEFORE_ID = b'{"id": '
_decode = json.JSONDecoder().raw_decode


class StoredDocuments:
    """The documents in one file, by row. Raises BadFolder when it cannot be read."""

    def __init__(self, path: Path, offsets: Int64[np.ndarray, " row_plus_one"]) -> None:
        self.path = path
        self._offsets = offsets
        with readable(path):
            # An open file stays readable when another index replaces it.
            self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    @classmethod
    def open(cls, folder: Path, count: int) -> Self:
        """Opens the documents of an index folder whose manifest says that there are `count`."""
        offsets = read_array(folder / "offsets.npy", (count + 1,), np.int64)
        return cls(folder / "documents.jsonl", offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Document:
        start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
        with readable(self.path):
            line = os.pread(self._handle, max(0, stop - start), start)
        return self._document(line, start)

    def __iter__(self) -> Iterator[Document]:
        return (self[row] for row in range(len(self)))

    def ids(self) -> Iterator[str]:
        """Yields the id of every document, without parsing the rest of it."""
        for first, last in document_ranges(self._offsets, _BYTES_AT_ONCE):
            begin, *ends = self._offsets[first : last + 1].tolist()
            with readable(self.path):
                content = os.pread(self._handle, max(0, ends[-1] - begin), begin)
            for start, stop in pairwise([begin, *ends]):
                line = content[start - begin : stop - begin]
                yield _id(line) or self._document(line, start).id

    def _document(self, line: bytes, start: int) -> Document:
        try:
            return Document(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise BadFolder(
                f"{self.path} has no document at byte {start}; build the index again"
            ) from error


def _id(line: bytes) -> str | None:
    """Returns the id at the beginning of a line, or None if the line begins otherwise."""
    if not (line.startswith(_BEFORE_ID) and line.endswith(b"\n")):
        return None
    try:
        document_id = _decode(line.decode("utf-8"), len(_BEFORE_ID))[0]
    except ValueError:
        return None
    return document_id if isinstance(document_id, str) else None


def write_documents(
    documents: Iterable[Document], path: Path, offsets: Path, task: str = "reading the corpus"
) -> StoredDocuments:
    """Writes the documents to `path` and the start of each to `offsets`.

    `task` is the name of this phase. Raises BadData when there is no document.
    """
    starts = [0]
    with atomic_file(path) as partial, partial.open("wb") as file:
        for document in count_items(documents, task, "documents"):
            line = json.dumps(document.fields()).encode("ascii") + b"\n"
            starts.append(starts[-1] + len(line))
            file.write(line)
    if len(starts) == 1:
        raise BadData(
            "the corpus has no document with a text; give a JSON Lines file with a field `text`, or"
            " a .txt file with one document per line"
        )
    array = np.array(starts, dtype=np.int64)
    write_array(offsets, array)
    return StoredDocuments(path, array)


def check_new(
    documents: Iterable[Document], known_ids: set[int], index: Path
) -> Iterator[Document]:
    """Yields documents to add to an index. `known_ids` are the identities of its ids, to which
    those of the new documents are added.

    Raises BadData for a document whose id is among them.
    """
    for document in documents:
        if identity(document.id) in known_ids:
            raise BadData(
                f"{index} already has a document {document.id!r}; nothing was added: give"
                " --replace to replace it, or give the new one another id (a field `_id`; where"
                " there is none the line's number is the id, and `--id-prefix` makes it another)"
            )
        known_ids.add(identity(document.id))
        yield document


def check_known(missing_ids: Collection[str], index: Path) -> None:
    """Raises BadData if there are ids to delete that an index does not have."""
    if missing_ids:
        raise BadData(
            f"{index} has no document {', '.join(map(repr, sorted(missing_ids)[:5]))}; nothing was"
            " deleted: leave it out, or see ids with `nearfar search`"
        )


def read_array(path: Path, shape: tuple[int | None, ...], kind: type) -> np.ndarray:
    """Returns the array in `path`, memory-mapped.

    Raises BadFolder when its shape (None: any size) or its number type is another.
    """
    try:
        with readable(path):
            array = np.load(path, mmap_mode="c" if 0 not in shape else None, allow_pickle=False)
    except ValueError as error:
        raise BadFolder(f"{path} cannot be read ({error}); build the index again") from error
    expected_shape = tuple(
        actual_size if size is None else size
        for actual_size, size in zip(array.shape, shape, strict=False)
    )
    if array.shape != expected_shape or array.ndim != len(shape) or array.dtype != kind:
        shape_text = ", ".join("any" if size is None else str(size) for size in shape)
        raise BadFolder(
            f"{path} holds {array.dtype} numbers of shape {array.shape}, but the manifest says"
            f" ({shape_text}); build the index again"
        )
    return array
