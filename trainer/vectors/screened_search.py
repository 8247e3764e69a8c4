"""Exact search in blocks: a fast matrix product excludes most pairs, and the rest are scored one by
one.

Where the processor has instructions for it, the product uses vectors rounded to bfloat16. A pair is
excluded only when its score is too low by more than the largest possible rounding error. A score is
computed from its pair of vectors alone, so results do not depend on blocks, threads or ranks.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from trainer.vectors.score_bits import best_first, group_maxima, pairs_reaching, stable_order

DOCUMENTS_AT_ONCE = 1 << 14
_FEW_QUERIES = 64
"""Fewer queries than this are multiplied in float32: to round the documents would take longer."""
_DOCUMENTS_PER_PRODUCT = 1 << 12
_SCORES_AT_ONCE = 1 << 22
_MEMBERS = 16
FLOAT32_ERROR, _BFLOAT16 = 1.01 * 2.0**-24, 1.01 * 2.0**-8
"""The largest relative error of a rounded number, plus 1 percent for products of such errors."""

ScoredPairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Queries, rows of documents and scores."""

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)


@dataclass(frozen=True)
class Extent:
    """Bounds for the errors of products with some vectors."""

    longest: float
    """The length of the longest vector."""
    rounding: float
    """The length of the largest rounding error of a vector in bfloat16; 0 for float32 products."""

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "vector dimension"], is_rounded: bool) -> "Extent":
        """Returns the extent of vectors that are multiplied in bfloat16 if `is_rounded`."""
        return cls(
            float(lengths_of(vectors).max(initial=0.0)),
            float(_rounding(vectors).max(initial=0.0)) if is_rounded else 0.0,
        )


class ScreenedSearch:
    """Finds the k best documents per query, in blocks of documents.

    Memory holds at most 16 MB of scores at a time.

    >>> search = ScreenedSearch(np.eye(2, dtype="float32"), k=2)
    >>> search.add(np.float32([[1, 0], [0, 3]]), first_row=0)
    >>> search.add(np.float32([[1, 0], [2, 2]]), first_row=2)
    >>> scores, rows = search.best()
    >>> rows.tolist(), scores.tolist()
    ([[3, 0], [1, 3]], [[2.0, 1.0], [3.0, 2.0]])
    """

    def __init__(self, queries: Float32[np.ndarray, "query dimension"], k: int) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one document")
        self._queries, self._k = queries, k
        self.is_rounded = len(queries) >= _FEW_QUERIES and _is_bfloat16_fast()
        """True when products are computed in bfloat16."""
        self._query_factors = self._factors(queries)
        self._query_lengths = lengths_of(queries)
        self._roundings = _rounding(queries) if self.is_rounded else np.zeros(len(queries))
        self._largest = np.full((len(queries), k), -np.inf, np.float32)
        """Per query, the k largest of the maxima of groups of documents: k documents reach the
        smallest of them.
        """
        self._error = np.zeros(len(queries))
        """Per query, the largest possible error of a product so far, without the rounding of the
        product itself.
        """
        self._candidates: list[ScoredPairs] = []

    def add(
        self,
        documents: Float32[np.ndarray, "document dimension"],
        first_row: int,
        extent: Extent | None = None,
    ) -> None:
        """Searches a block of documents, whose row numbers begin with `first_row`.

        Blocks must be added in the order of their rows. `extent` is that of these documents; if it
        is not given, it is computed.
        """
        if extent is None:
            extent = Extent.of(documents, self.is_rounded)
        # With rounded q' and d': |q'd' - qd| <= |q' - q||d| + |q'||d' - d|. The error of the sum of
        # `dimension` products in float32 is added.
        sums = 2 * documents.shape[1] * FLOAT32_ERROR * extent.longest * self._query_lengths
        error = (
            self._roundings * extent.longest + 1.01 * self._query_lengths * extent.rounding + sums
        )
        self._error = np.maximum(self._error, error)
        # Validation runs inside the trainer's autocast.
        with torch.autocast("cpu", enabled=False):
            for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
                self._add(documents[start : start + DOCUMENTS_AT_ONCE], first_row + start)

    def _add(self, documents: Float32[np.ndarray, "document dimension"], first_row: int) -> None:
        factors = self._factors(documents)
        width = min(_DOCUMENTS_PER_PRODUCT, len(documents))
        step = max(1, _SCORES_AT_ONCE // width)
        # One buffer for all products: new memory pages would take as long as a product.
        buffer = factors.new_empty(min(step, len(self._queries)) * width)
        for start in range(0, len(self._queries), step):
            self._screen(
                slice(start, min(start + step, len(self._queries))),
                documents,
                factors,
                first_row,
                buffer,
            )

    def _factors(
        self, vectors: Float32[np.ndarray, "vector dimension"]
    ) -> Float[Tensor, "vector dimension"]:
        return torch.from_numpy(vectors).to(torch.bfloat16 if self.is_rounded else torch.float32)

    def _screen(
        self,
        query_slice: slice,
        documents: Float32[np.ndarray, "document dimension"],
        factors: Float[Tensor, "document dimension"],
        first_row: int,
        buffer: Float[Tensor, " score"],
    ) -> None:
        """Searches documents for some queries.

        k documents have a product of at least `largest`, so k exact scores are at least `largest`
        minus the error. A document among the best therefore has a product of at least `largest`
        minus twice the error. Rounded products may differ by their own rounding in addition.
        """
        pairs_and_scores, queries_part = [], self._query_factors[query_slice]
        for first in range(0, len(factors), _DOCUMENTS_PER_PRODUCT):
            part = factors[first : first + _DOCUMENTS_PER_PRODUCT]
            # One row per document: oneDNN is a third faster with more rows than columns.
            scores = torch.mm(
                part,
                queries_part.T,
                out=buffer[: len(part) * len(queries_part)].view(len(part), len(queries_part)),
            )
            limits = self._raise_limits(query_slice, group_maxima(scores, self._k))
            queries, rows, product_scores = pairs_reaching(scores, limits)
            pairs_and_scores.append((queries * len(factors) + rows + first, product_scores))
        pairs, product_scores = (
            np.concatenate(arrays) for arrays in zip(*pairs_and_scores, strict=True)
        )
        pairs = np.sort(
            pairs[product_scores >= limits[pairs // len(factors)]]
        )  # limits may have risen
        queries, rows = np.divmod(pairs, len(factors))
        self._candidates.append(
            (
                queries + query_slice.start,
                rows + first_row,
                pair_scores(self._queries[query_slice], documents, queries, rows),
            )
        )

    def _raise_limits(
        self, query_slice: slice, maxima: Float32[np.ndarray, "query group"]
    ) -> Float32[np.ndarray, " query"]:
        """Returns, per query, the least product that a document among the k best can have."""
        all_maxima = np.concatenate([self._largest[query_slice], maxima], axis=1)
        all_maxima.partition(all_maxima.shape[1] - self._k, axis=1)
        self._largest[query_slice] = all_maxima[:, -self._k :]
        largest = self._largest[query_slice].min(1)
        score_rounding = 2 * _BFLOAT16 * np.abs(largest) if self.is_rounded else 0.0
        return (largest - 2 * self._error[query_slice] - score_rounding).astype(np.float32)

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Returns scores and rows, best first; equal scores are in the order of their rows.

        Where there are fewer than k documents, the score is minus infinity and the row -1.
        """
        return best_of_pairs(self._candidates, len(self._queries), self._k)


def best_of_pairs(
    candidates: Sequence[ScoredPairs], count: int, k: int
) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
    """Returns the k best scores and rows of `count` queries."""
    best_scores = np.full((count, k), -np.inf, np.float32)
    best_rows = np.full((count, k), -1, np.int64)
    if not candidates:
        return best_scores, best_rows
    queries, rows, scores = (np.concatenate(arrays) for arrays in zip(*candidates, strict=True))
    order = best_first(scores, rows)
    order = order[stable_order(queries[order], count)]
    queries, rows, scores = queries[order], rows[order], scores[order]
    ranks = np.arange(len(queries)) - np.searchsorted(queries, queries)
    in_top_k = ranks < k
    best_scores[queries[in_top_k], ranks[in_top_k]] = scores[in_top_k]
    best_rows[queries[in_top_k], ranks[in_top_k]] = rows[in_top_k]
    return best_scores, best_rows


def pair_scores(
    queries: Float32[np.ndarray, "query dimension"],
    documents: Float32[np.ndarray, "document dimension"],
    query_rows: Int64[np.ndarray, " pair"],
    document_rows: Int64[np.ndarray, " pair"],
) -> Float32[np.ndarray, " pair"]:
    """Returns the dot product of each pair of a query and a document.

    `query_rows` must ascend. A product does not depend on the other pairs.

    >>> pair_scores(
    ...     np.float32([[1, 2]]), np.float32([[3, 0], [0, 4]]), np.array([0, 0]), np.array([1, 0])
    ... ).tolist()
    [8.0, 3.0]
    """
    starts = np.searchsorted(query_rows, np.arange(len(queries) + 1))
    pair_mask = torch.sparse_csr_tensor(
        torch.from_numpy(starts),
        torch.from_numpy(document_rows),
        torch.zeros(len(query_rows)),
        (len(queries), len(documents)),
        check_invariants=False,  # the rows of a query are in any order
    )
    # A matrix product would not do: its order of summation depends on the other rows.
    return (
        torch.sparse.sampled_addmm(
            pair_mask, torch.from_numpy(queries), torch.from_numpy(documents).T, beta=0.0
        )
        .values()
        .numpy()
    )


def lengths_of(vectors: Float32[np.ndarray, "vector dimension"]) -> Float32[np.ndarray, " vector"]:
    """Returns the length of each vector."""
    return np.sqrt(np.einsum("vd,vd->v", vectors, vectors))


def _rounding(vectors: Float32[np.ndarray, "vector dimension"]) -> Float32[np.ndarray, " vector"]:
    """Returns the length of each vector's rounding error in bfloat16, plus 1 percent."""
    exact = torch.from_numpy(vectors)
    return 1.01 * (exact - exact.bfloat16().float()).norm(dim=1).numpy()


def _is_bfloat16_fast() -> bool:
    """Returns true when products on this processor are several times as fast in bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
