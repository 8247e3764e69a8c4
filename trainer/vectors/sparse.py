"""Vectors of models that give one weight per word of the vocabulary, of which few are not zero."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, Shaped
from torch import Tensor

from trainer.errors import BadModel
from trainer.scores import Score, dot
from trainer.vectors.ragged import RaggedVectors, offsets_of, rows_of_all_ranks, tokens_of
from trainer.vectors.ranking import with_block
from trainer.vectors.vectors import Search

DOCUMENTS_AT_ONCE = 1 << 13
"""The number of documents that are searched together."""


@dataclass(frozen=True, slots=True)
class SparseVectors(RaggedVectors):
    """One sparse vector per text: text i has the terms `rows[offsets[i] : offsets[i + 1]]`.

    A term is the number of a word in the vocabulary and its weight, both in float32, so 8 bytes.
    Terms of a text are in the order of the vocabulary. Texts are compared by the dot product.

    >>> from trainer.vectors.vectors import nearest_documents
    >>> documents = SparseVectors(np.float32([[3, 1], [7, 2], [7, 1]]), np.array([0, 2, 3]), 9)
    >>> queries = SparseVectors(np.float32([[7, 5]]), np.array([0, 1]), 9)
    >>> scores, rows = nearest_documents(queries, documents, k=2)
    >>> scores.tolist(), rows.tolist()
    ([[10.0, 5.0]], [[0, 1]])
    """

    UNIT = "term"
    TEXTS_PER_BLOCK: ClassVar[int] = 1 << 12
    ARRAYS = ("terms", "offsets", "vocabulary")
    COMPACT = np.float32

    rows: Float[np.ndarray, "term 2"]
    offsets: Int64[np.ndarray, " text_plus_one"]
    vocabulary: int
    """The number of words."""

    @classmethod
    def score(cls) -> Score:
        """Returns `trainer.scores.dot`."""
        return dot

    @classmethod
    def from_rows(
        cls,
        rows: Float[np.ndarray, "row dimension"],
        lengths: Int64[np.ndarray, " text"],
        dimensions: int | None = None,
    ) -> Self:
        """Returns texts where each text i has the next `lengths[i]` terms.

        Without `dimensions`, the vocabulary ends with the last word that is active.
        """
        words = 1 + int(rows[:, 0].max(initial=-1)) if dimensions is None else dimensions
        return cls(rows, offsets_of(lengths), words)

    @classmethod
    def row_width(cls, dimensions: int) -> int:
        """Returns 2: a row is a term, the number of its word and its weight."""
        return 2

    @classmethod
    def from_micro_batches(
        cls,
        micro_batches: Iterable[tuple[Int[Tensor, " row"], Float[Tensor, "row ..."]]],
        texts: int,
        dimensions: int,
        device: torch.device,
    ) -> Self:
        """Returns the vectors of `texts` texts, each of which one rank has encoded.

        Raises BadModel when the model gives token vectors.
        """
        rank_texts = []
        for places, weights in micro_batches:
            if weights.ndim != 2:
                raise BadModel(
                    "the model gives one vector per token, but one sparse vector per text is"
                    " needed; give a model that was trained with a recipe of kind sparse"
                )
            lines, words = weights.nonzero(as_tuple=True)
            terms = torch.stack([words.float(), weights[lines, words].float()], 1)
            rank_texts.append((places, weights.count_nonzero(1), terms))
        rows, lengths = rows_of_all_ranks(rank_texts, texts, 2, device)
        return cls(rows, offsets_of(lengths), dimensions)

    @classmethod
    def join(cls, parts: Iterator[Self], texts: int, dimensions: int) -> Self:
        """Returns the vectors of `texts` texts, joined from parts."""
        rows, lengths = cls.joined_rows(parts, 2)
        return cls(rows, offsets_of(lengths), dimensions)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Self:
        """Returns the vectors in the arrays named in `ARRAYS`."""
        return cls(arrays["terms"], arrays["offsets"], int(arrays["vocabulary"][0]))

    @property
    def arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The arrays "terms", "offsets" and "vocabulary", by their names."""
        vocabulary = np.array([self.vocabulary])
        return {"terms": self.rows, "offsets": self.offsets, "vocabulary": vocabulary}

    @property
    def csr_arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The arrays that `scipy.sparse.save_npz` writes for a matrix in CSR format.

        >>> vectors = SparseVectors(np.float32([[2, 5], [0, 1]]), np.array([0, 1, 2]), 3)
        >>> arrays = vectors.csr_arrays
        >>> {name: arrays[name].tolist() for name in ("data", "indices", "indptr", "shape")}
        {'data': [5.0, 1.0], 'indices': [2, 0], 'indptr': [0, 1, 2], 'shape': [2, 3]}
        """
        number = np.int32 if len(self.rows) <= np.iinfo(np.int32).max else np.int64
        return {
            "indices": self.rows[:, 0].astype(number),
            "indptr": self.offsets.astype(number),
            "format": np.array(b"csr"),
            "shape": np.array([len(self), self.vocabulary]),
            "data": self.rows[:, 1].astype(np.float32),
        }

    @property
    def words(self) -> Int64[np.ndarray, " term"]:
        """The number of each term's word."""
        return self.rows[:, 0].astype(np.int64)

    def select(self, texts: Int64[np.ndarray, " row"]) -> Self:
        """Returns the texts with these numbers, in this order."""
        rows = self.rows[tokens_of(self.offsets, texts)]
        return type(self)(rows, offsets_of(self.lengths[texts]), self.vocabulary)

    def to_padded(self) -> Float32[np.ndarray, "text vocabulary"]:
        """Returns all weights, also those that are zero.

        >>> SparseVectors(np.float32([[2, 5], [0, 1]]), np.array([0, 1, 2]), 3).to_padded().tolist()
        [[0.0, 0.0, 5.0], [1.0, 0.0, 0.0]]
        """
        weights = np.zeros((len(self), self.vocabulary), np.float32)
        weights[np.repeat(np.arange(len(self)), self.lengths), self.words] = self.rows[:, 1]
        return weights

    def empty_texts(self) -> Int64[np.ndarray, " text"]:
        """Returns no text: one without active terms has the score zero with every other."""
        return np.empty(0, np.int64)

    def figures(self, role: str) -> dict[str, float]:
        """Returns the mean number of active terms per text.

        >>> SparseVectors(np.float32([[2, 5], [0, 1]]), np.array([0, 1, 2]), 3).figures("query")
        {'active_terms_per_query': 1.0}
        """
        return {f"active_terms_per_{role}": len(self.rows) / max(1, len(self))}

    def search(self, k: int, device: torch.device | str = "cpu") -> Search:
        """Returns a search for the k documents with the largest dot product per query. It is exact
        and runs on the CPU.
        """
        return SparseSearch(self, k)

    def pair_scores(
        self,
        documents: Self,
        query_rows: Int64[np.ndarray, " pair"],
        document_rows: Int64[np.ndarray, " pair"],
    ) -> Float32[np.ndarray, " pair"]:
        """Returns the dot product of each pair of a query and a document."""
        scores = np.empty(len(query_rows), np.float32)
        for query in np.unique(query_rows):
            pairs = np.flatnonzero(query_rows == query)
            scores[pairs] = _scores(self[int(query)], documents.select(document_rows[pairs]))
        return scores


class SparseSearch:
    """Exact search by the terms that a query and a document share.

    A block of documents is sorted by word once. For each query, the weights of its words are added
    up, in float64. Besides the vectors, memory holds a block of documents sorted by word (32 bytes
    per term) and one score per query and document of the block (4 bytes).
    """

    def __init__(self, queries: SparseVectors, k: int) -> None:
        self._queries, self._k = queries, k
        self._scores = torch.empty(len(queries), 0)
        self._rows = torch.empty(len(queries), 0, dtype=torch.long)

    def add(self, documents: SparseVectors, first_row: int) -> None:
        """Searches `documents`, whose row numbers begin with `first_row`."""
        for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
            block = documents.select(
                np.arange(start, min(start + DOCUMENTS_AT_ONCE, len(documents)))
            )
            self._scores, self._rows = with_block(
                self._scores, self._rows, self._block_scores(block), first_row + start, self._k
            )

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Returns the k nearest of all documents so far."""
        missing = self._k - self._rows.shape[1]
        scores, rows = self._scores.numpy(), self._rows.numpy()
        return (
            np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf),
            np.pad(rows, ((0, 0), (0, missing)), constant_values=-1),
        )

    def _block_scores(self, block: SparseVectors) -> Float32[Tensor, "query document"]:
        order = block.words.argsort(kind="stable")
        weights = block.rows[order, 1].astype(np.float64)
        owners = np.repeat(np.arange(len(block)), block.lengths)[order]
        words = np.arange(max(block.vocabulary, self._queries.vocabulary) + 1)
        starts = np.searchsorted(block.words[order], words)
        scores = torch.empty(len(self._queries), len(block))
        for number in range(len(self._queries)):
            sums = np.zeros(len(block))
            for word, weight in self._queries[number]:
                part = slice(starts[int(word)], starts[int(word) + 1])
                sums[owners[part]] += np.float64(weight) * weights[part]
            scores[number] = torch.from_numpy(sums)
        return scores


def _scores(
    query: Float[np.ndarray, "term 2"], documents: SparseVectors
) -> Float32[np.ndarray, " document"]:
    """Returns the dot product of one query with each document."""
    words = query[:, 0].astype(np.int64)
    weights = np.zeros(max(documents.vocabulary, 1 + int(words.max(initial=0))))
    weights[words] = query[:, 1]
    products = weights[documents.words] * documents.rows[:, 1]
    owners = np.repeat(np.arange(len(documents)), documents.lengths)
    return np.bincount(owners, products, len(documents)).astype(np.float32)
