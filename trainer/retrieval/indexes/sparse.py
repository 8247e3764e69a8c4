"""The index folder for one sparse vector per document: inverted lists (Zobel & Moffat 2006).

manifest.json    model, counts, and size and fingerprint of every other file
starts.npy       int64, where the list of each word begins, and where the last one ends
rows.npy         uint32, list after list: the documents that have the word, in ascending order
weights.npy      float32, the weight of the word in each of them
documents.jsonl  id, title and text of every document, in the order of the rows
offsets.npy      where each line of documents.jsonl begins, so that one document can be read alone
probe.npy        weights of two fixed texts, by which the model of the index is recognised
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, Self

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from pydantic import NonNegativeInt, PositiveInt

from trainer.data.readers.corpus import Document
from trainer.errors import BadFolder, BadModel
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import Encoding, document_blocks
from trainer.retrieval.indexes.index import RewritableIndex
from trainer.retrieval.indexes.manifest import (
    MANIFEST,
    SPARSE_FILES,
    AnyManifest,
    describe_files,
    open_consistent,
    parse_manifest,
    read_content,
)
from trainer.retrieval.indexes.place import new_index
from trainer.retrieval.indexes.probe import PROBES, probe_difference, vectors_of_probes
from trainer.retrieval.indexes.stored_documents import StoredDocuments, read_array, write_documents
from trainer.storage.atomic import write_array
from trainer.vectors.ragged import offsets_of
from trainer.vectors.ranking import largest_positive
from trainer.vectors.sparse import SparseVectors
from trainer.vectors.vectors import TopK, Vectors


class SparseManifest(AnyManifest):
    """The manifest of an index with one sparse vector per document."""

    kind: Literal["inverted"]
    count: PositiveInt
    dimensions: PositiveInt
    """The number of words of the vocabulary."""
    terms: NonNegativeInt
    """The number of weights of all documents that are not zero."""

    @property
    def summary(self) -> str:
        """One line that describes the content of the index."""
        return (
            f"{self.count:,} documents, {self.kind}, {self.dimensions:,} words,"
            f" {self.terms / self.count:.1f} active terms per document"
        )

    @classmethod
    def read(cls, folder: Path) -> "SparseManifest":
        """Reads the manifest in `folder`. Raises BadFolder when it is missing or damaged."""
        manifest = parse_manifest(cls, read_content(folder), folder)
        if set(manifest.files) != set(SPARSE_FILES):
            raise BadFolder(
                f"{folder / MANIFEST} does not list the files of an index of kind {manifest.kind};"
                " build the index again with `nearfar index`"
            )
        return manifest


class SparseIndex(RewritableIndex):
    """An open index with one sparse vector per document. Lists and documents stay on disk."""

    UNIT = "term"

    def __init__(self, folder: Path, manifest: SparseManifest) -> None:
        self.folder = folder
        self.manifest: SparseManifest = manifest
        terms = (manifest.terms,)
        # Plain arrays, because slices of NumPy's memmap take longer.
        self._rows = np.asarray(read_array(folder / "rows.npy", terms, np.uint32))
        self._weights = np.asarray(read_array(folder / "weights.npy", terms, np.float32))
        self._starts = read_array(folder / "starts.npy", (manifest.dimensions + 1,), np.int64)
        ends = int(self._starts[0]), int(self._starts[-1])
        if ends != (0, manifest.terms) or (np.diff(self._starts) < 0).any():
            raise self._bad_file("starts.npy", "has lists that do not follow each other")
        self.documents = StoredDocuments.open(folder, manifest.count)
        probe_shape = (len(PROBES), manifest.dimensions)
        self._probe = read_array(folder / "probe.npy", probe_shape, np.float32)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the index in `folder`.

        Raises BadFolder when it holds no index, or when a file is missing, truncated or altered.
        """
        return open_consistent(Path(folder), SparseManifest.read, cls)

    def _difference(self, encoder: VectorEncoder) -> str | None:
        return probe_difference(encoder, self._probe)

    def nearest(self, queries: Vectors, k: int) -> TopK:
        """Returns scores and rows of the k best documents per query, best first.

        The search is exact: scores are those of `SparseVectors.search`, to the last bit. A
        document that shares no term with the query is not among them; row -1 stands for none.
        Raises BadFolder when a list is damaged.
        """
        assert isinstance(queries, SparseVectors)
        if queries.vocabulary != self.manifest.dimensions:
            raise BadModel(
                f"the queries have weights of {queries.vocabulary} words, but the index has"
                f" {self.manifest.dimensions}; encode them with {self.manifest.made_with}"
            )
        k = min(k, self.manifest.count)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for number in range(len(queries)):
            document_scores = self._document_scores(queries[number]).astype(np.float32)
            best = largest_positive(document_scores, k)
            scores[number, : len(best)], rows[number, : len(best)] = document_scores[best], best
        return scores, rows

    def write_changed(
        self,
        folder: Path,
        count: int,
        rows: Int64[np.ndarray, " row"],
        new_vectors: Iterable[Vectors],
    ) -> SparseManifest:
        """Writes a changed index, as `RewritableIndex` says. Memory holds about 50 bytes per
        term.
        """
        manifest = self.manifest.model_copy(update={"count": count})
        blocks = chain([self._vectors().select(rows)], new_vectors)
        return _write_lists(folder, manifest, blocks, self._probe)

    def _vectors(self) -> SparseVectors:
        """Returns the vectors of all documents. Raises BadFolder when a list is damaged."""
        if self._rows.max(initial=0) >= self.manifest.count:
            raise self._bad_file("rows.npy", "names a document that the index lacks")
        order = self._rows.argsort(kind="stable")
        words = np.repeat(np.arange(self.manifest.dimensions), np.diff(self._starts))
        terms = np.stack([words[order].astype(np.float32), self._weights[order]], 1)
        lengths = np.bincount(self._rows, minlength=self.manifest.count)
        return SparseVectors(terms, offsets_of(lengths), self.manifest.dimensions)

    def _document_scores(
        self, query: Float[np.ndarray, "term 2"]
    ) -> Float64[np.ndarray, " document"]:
        scores = np.zeros(self.manifest.count)
        try:
            for word, weight in query:
                part = slice(self._starts[int(word)], self._starts[int(word) + 1])
                scores[self._rows[part]] += np.float64(weight) * self._weights[part]
        except IndexError as error:
            raise self._bad_file("rows.npy", "names a document that the index lacks") from error
        if not np.isfinite(scores).all():
            raise self._bad_file("weights.npy", "has weights that are not finite")
        return scores

    def _bad_file(self, name: str, problem: str) -> BadFolder:
        return BadFolder(f"{self.folder / name} {problem}; build the index again")


def build_sparse_index(
    encoding: Encoding,
    model_name: str,
    documents: Iterable[Document],
    folder: Path,
    kind: Literal["inverted"] = "inverted",
    replace: bool = False,
    layers: int | None = None,
) -> SparseManifest:
    """Writes the index of `documents` into `folder`, and returns its manifest.

    If this fails, `folder` is unchanged. Memory holds 16 bytes per term. `layers` is the number of
    the model's layers that the encoder has. Raises BadFolder as `new_index` does, and BadData when
    there is no document.
    """
    encoder = encoding.encoder
    with new_index(Path(folder), replace) as partial:
        on_disk = write_documents(documents, partial / "documents.jsonl", partial / "offsets.npy")
        manifest = SparseManifest(
            model=model_name,
            layers=layers,
            kind=kind,
            count=len(on_disk),
            dimensions=encoder.dimensions,
            terms=0,
            files={},
        )
        blocks = (block.vectors for block in document_blocks(encoding, on_disk))
        return _write_lists(partial, manifest, blocks, vectors_of_probes(encoder))


def _write_lists(
    folder: Path,
    manifest: SparseManifest,
    blocks: Iterable[Vectors],
    probe: Float32[np.ndarray, "probe dimension"],
) -> SparseManifest:
    """Writes all files beside those of the documents, and returns the complete manifest."""
    sparse_blocks = []
    for block in blocks:
        assert isinstance(block, SparseVectors)
        sparse_blocks.append(block)
    starts, rows, weights = inverted_lists(sparse_blocks, manifest.dimensions)
    write_array(folder / "starts.npy", starts)
    write_array(folder / "rows.npy", rows)
    write_array(folder / "weights.npy", weights)
    write_array(folder / "probe.npy", probe)
    manifest = manifest.model_copy(
        update={"terms": len(rows), "files": describe_files(folder, SPARSE_FILES)}
    )
    manifest.write(folder)
    return manifest


def inverted_lists(
    blocks: Sequence[SparseVectors], vocabulary: int
) -> tuple[
    Int64[np.ndarray, " word_plus_one"],
    "np.ndarray[tuple[int], np.dtype[np.uint32]]",
    Float32[np.ndarray, " term"],
]:
    """Returns where the list of each word begins, and the rows and weights of all lists.

    >>> block = SparseVectors(np.float32([[0, 5], [2, 7], [2, 9]]), np.array([0, 2, 3]), 3)
    >>> starts, rows, weights = inverted_lists([block], 3)
    >>> starts.tolist(), rows.tolist(), weights.tolist()
    ([0, 1, 1, 3], [0, 0, 1], [5.0, 7.0, 9.0])
    """
    counts = [np.bincount(block.words, minlength=vocabulary) for block in blocks]
    starts = offsets_of(np.sum(counts, axis=0))
    rows, weights = np.empty(starts[-1], np.uint32), np.empty(starts[-1], np.float32)
    next_places, first_row = starts[:-1].copy(), 0
    for block, lengths in zip(blocks, counts, strict=True):
        order = block.words.argsort(kind="stable")
        # Where the list of each word begins in the file, minus where it begins in `order`.
        shifts = next_places - (np.cumsum(lengths) - lengths)
        places = np.repeat(shifts, lengths) + np.arange(len(order))
        rows[places] = first_row + np.repeat(np.arange(len(block)), block.lengths)[order]
        weights[places] = block.rows[order, 1]
        next_places += lengths
        first_row += len(block)
    return starts, rows, weights
