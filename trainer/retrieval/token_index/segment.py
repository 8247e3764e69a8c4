"""An open segment of an index of token vectors: its documents and stored vectors."""

from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt16

from trainer.errors import BadFolder
from trainer.retrieval.indexes.stored_documents import StoredDocuments, read_array
from trainer.retrieval.token_index.codes import Codec, Codes
from trainer.retrieval.token_index.lists import TokenLists
from trainer.retrieval.token_index.manifest import PARTS, Segment, TokenIndexKind
from trainer.vectors.ragged import offsets_of, tokens_of
from trainer.vectors.tokens import TokenVectors


class OpenSegment:
    """An open segment. Rows are counted from 0; vectors and codes stay on disk.

    The first search reads all ids to make the lists of centroids. It raises BadFolder for an id
    that is too large: opening checks only samples of large files.
    """

    def __init__(
        self,
        folder: Path,
        segment: Segment,
        kind: TokenIndexKind,
        dimensions: int,
        codec: Codec | None,
    ) -> None:
        self.segment = segment
        self._codec = codec
        number, count, tokens = segment.number, segment.documents, segment.tokens
        self.documents = StoredDocuments(
            folder / f"documents-{number}.jsonl",
            read_array(folder / f"offsets-{number}.npy", (count + 1,), np.int64),
        )
        lengths = folder / f"lengths-{number}.npy"
        self.offsets = offsets_of(read_array(lengths, (count,), np.uint32).astype(np.int64))
        if self.offsets[-1] != tokens:
            raise BadFolder(
                f"{lengths} counts {self.offsets[-1]} vectors, the manifest says {tokens}; build"
                " the index again"
            )
        self.is_deleted = _read_deleted(folder, segment)
        self.parts: tuple[str, ...] = PARTS[kind]
        """The names of the arrays."""
        if codec is None:
            self.vectors = read_array(
                folder / f"vectors-{number}.npy", (tokens, dimensions), np.float16
            )
        else:
            self._ids_file = folder / f"ids-{number}.npy"
            self.ids = read_array(self._ids_file, (tokens,), np.uint16)
            self.codes = read_array(
                folder / f"codes-{number}.npy", (tokens, codec.code_bytes), np.uint8
            )
            self.means = read_array(
                folder / f"means-{number}.npy", (count, codec.code_bytes), np.uint8
            )

    @property
    def live(self) -> int:
        """The number of documents that are not deleted."""
        return self.segment.documents - self.segment.deleted

    @cached_property
    def lists(self) -> TokenLists:
        """The documents that have a token near each centroid."""
        assert self._codec is not None
        _check_ids(self.ids, len(self._codec.centroids), self._ids_file)
        return TokenLists.of(self.ids, self.offsets, len(self._codec.centroids), self.is_deleted)

    @property
    def live_rows(self) -> Int64[np.ndarray, " row"]:
        """The rows of the documents that are not deleted."""
        return np.flatnonzero(~self.is_deleted)

    @property
    def exact(self) -> TokenVectors:
        """All vectors of an exact index, memory-mapped."""
        return TokenVectors(self.vectors, self.offsets)

    def means_of(self, rows: Int64[np.ndarray, " row"]) -> Float32[np.ndarray, "row place"]:
        """Returns the mean residuals of some documents of a compressed index, rotated."""
        assert self._codec is not None
        return self._codec.decode_means(self.means[rows])

    def decode(self, rows: Int64[np.ndarray, " row"]) -> TokenVectors:
        """Returns the vectors of some documents of a compressed index, rotated."""
        assert self._codec is not None
        tokens = tokens_of(self.offsets, rows)
        lengths = np.diff(self.offsets)[rows]
        vectors = self._codec.decode(
            Codes(self.ids[tokens], self.codes[tokens], self.means[rows]), lengths
        )
        return TokenVectors(vectors, offsets_of(lengths))


def _check_ids(ids: UInt16[np.ndarray, " token"], centroids: int, path: Path) -> None:
    if (largest_id := int(ids.max())) >= centroids:
        raise BadFolder(
            f"{path} was altered: it names centroid {largest_id} of {centroids}, counted from 0;"
            " build the index again, or copy the folder again"
        )


def _read_deleted(folder: Path, segment: Segment) -> Bool[np.ndarray, " document"]:
    is_deleted = np.zeros(segment.documents, dtype=bool)
    if segment.deleted_in is not None:
        path = folder / segment.deleted_file
        rows = read_array(path, (segment.deleted,), np.int64)
        if ((rows < 0) | (rows >= segment.documents)).any() or len(np.unique(rows)) < len(rows):
            raise BadFolder(
                f"{path} names documents that the segment has not; build the index again"
            )
        is_deleted[rows] = True
    return is_deleted
