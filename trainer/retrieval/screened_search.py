"""Exact search block by block: a quick product of matrices leaves out what cannot be among the best, and the few left are scored one by one.

The product may be rounded, to bfloat16 where the processor has instructions for it: what it leaves out is out by more than its rounding can amount to.
A score is the sum over one pair of vectors alone, so neither it nor the order depends on blocks, threads or ranks.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

_DOCUMENTS_AT_ONCE = 1 << 14
_DOCUMENTS_A_PRODUCT = 1 << 12
_SCORES_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 26}
_GROUPS = 16
_FLOAT32 = 1.01 * 2.0**-24
"""By how much a number rounded to the nearest differs at most, relative to itself, and a hundredth more for products of such differences."""


class ScreenedSearch:
    """The k best documents of some queries, of blocks of documents shown one after the other. At most 16 MB of scores are held at a time.

    >>> search = ScreenedSearch(np.eye(2, dtype="float32"), k=2)
    >>> search.add(np.float32([[1, 0], [0, 3]]), first_row=0)
    >>> search.add(np.float32([[1, 0], [2, 2]]), first_row=2)
    >>> scores, rows = search.best()
    >>> rows.tolist(), scores.tolist()
    ([[3, 0], [1, 3]], [[2.0, 1.0], [3.0, 2.0]])
    """

    def __init__(self, queries: Float32[np.ndarray, "query dimension"], k: int, device: torch.device | str = "cpu") -> None:
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one document")
        self._queries, self._k, self._device = queries, k, torch.device(device)
        self._there = torch.from_numpy(queries).to(self._device)
        self._lengths, self._roundings = np.linalg.norm(queries, axis=1), _rounding(queries)
        self._largest = np.full((len(queries), k), -np.inf, np.float32)
        """Of each query the k largest among the maxima of groups of documents: the smallest is a score that k documents reach."""
        self._error = np.zeros(len(queries))
        """By how much a score of a product may be off, over all documents so far."""
        self._found: list[tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"], Float32[np.ndarray, " pair"]]] = []

    def add(self, documents: Float32[np.ndarray, "document dimension"], first_row: int) -> None:
        """Looks through the documents, whose rows begin with `first_row`. Blocks come in the order of rows."""
        for start in range(0, len(documents), _DOCUMENTS_AT_ONCE):
            self._add(documents[start : start + _DOCUMENTS_AT_ONCE], first_row + start)

    def _add(self, documents: Float32[np.ndarray, "document dimension"], first_row: int) -> None:
        there = torch.from_numpy(documents).to(self._device)
        width = min(_DOCUMENTS_A_PRODUCT, len(documents))
        step = max(1, _SCORES_AT_ONCE.get(self._device.type, _SCORES_AT_ONCE["cuda"]) // width)
        room = torch.empty(min(step, len(self._queries)) * width, device=self._device)  # made once: fresh pages take as long as the product
        with _rounded_products(self._device) as rounded:
            longest, rounding = np.linalg.norm(documents, axis=1).max(), _rounding(documents).max() if rounded else 0.0
            # Of q'd' for qd: |q'd' - qd| <= |q' - q||d| + |q'||d' - d|, and the sum of `dimension` products in float32 beside.
            error = self._roundings * longest if rounded else 0.0
            error = error + 1.01 * self._lengths * rounding + 2 * documents.shape[1] * _FLOAT32 * longest * self._lengths
            self._error = np.maximum(self._error, error)
            for start in range(0, len(self._queries), step):
                some = slice(start, min(start + step, len(self._queries)))
                self._screen(some, documents, there, first_row, room)

    def _screen(
        self,
        some: slice,
        documents: Float32[np.ndarray, "document dimension"],
        there: Float[Tensor, "document dimension"],
        first_row: int,
        room: Float[Tensor, " score"],
    ) -> None:
        """Looks through documents for some queries.

        k documents have a rounded score of at least `largest`, so k exact scores are at least that less the error, and what is among the best has a
        rounded score of at least `largest` less twice the error.
        """
        found, asked = [], self._there[some]
        for first in range(0, len(there), _DOCUMENTS_A_PRODUCT):
            part = there[first : first + _DOCUMENTS_A_PRODUCT]
            scores = torch.mm(asked, part.T, out=room[: len(asked) * len(part)].view(len(asked), len(part)))
            limits = (self._raised(some, scores) - 2 * self._error[some]).astype(np.float32)
            queries, rows, rounded = _reaching(scores, limits)
            found.append((queries, rows + first, rounded))
        queries, rows, rounded = (np.concatenate(each) for each in zip(*found, strict=True))
        left = np.flatnonzero(rounded >= limits[queries])  # the limit has risen since
        left = left[_in_order(queries[left], len(asked))]
        queries, rows = queries[left], rows[left]
        self._found.append((queries + some.start, rows + first_row, pair_scores(self._queries[some], documents, queries, rows)))

    def _raised(self, some: slice, scores: Float[Tensor, "query document"]) -> Float32[np.ndarray, " query"]:
        """For each query a rounded score that k documents seen so far reach."""
        groups = min(_GROUPS, max(1, scores.shape[1] // (4 * self._k)))
        width = scores.shape[1] // groups
        maxima = scores[:, : groups * width].unflatten(1, (groups, width)).amax(1).cpu().numpy()
        together = np.concatenate([self._largest[some], maxima], axis=1)
        together.partition(together.shape[1] - self._k, axis=1)
        self._largest[some] = together[:, -self._k :]
        return self._largest[some].min(1)

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Scores and rows, best first, equal scores in the order of rows; minus infinity and row -1 where there are fewer than k documents."""
        found = (np.empty((len(self._queries), self._k), np.float32), np.empty((len(self._queries), self._k), np.int64))
        found[0].fill(-np.inf)
        found[1].fill(-1)
        if self._found:
            queries, rows, scores = (np.concatenate(each) for each in zip(*self._found, strict=True))
            order = np.argsort(-scores, kind="stable")  # blocks and their pairs came in the order of rows
            order = order[_in_order(queries[order], len(self._queries))]
            queries, rows, scores = queries[order], rows[order], scores[order]
            ranks = np.arange(len(queries)) - np.searchsorted(queries, queries)
            kept = ranks < self._k
            found[0][queries[kept], ranks[kept]] = scores[kept]
            found[1][queries[kept], ranks[kept]] = rows[kept]
        return found


def pair_scores(
    queries: Float32[np.ndarray, "query dimension"],
    documents: Float32[np.ndarray, "document dimension"],
    query_rows: Int64[np.ndarray, " pair"],
    document_rows: Int64[np.ndarray, " pair"],
) -> Float32[np.ndarray, " pair"]:
    """The dot product of each pair of a query and a document, whose queries come in ascending order; each the same whatever the others are.

    >>> pair_scores(np.float32([[1, 2]]), np.float32([[3, 0], [0, 4]]), np.array([0, 0]), np.array([1, 0])).tolist()
    [8.0, 3.0]
    """
    scores = np.empty(len(query_rows), np.float32)
    cuts = [0, *(np.flatnonzero(np.diff(query_rows)) + 1).tolist(), len(query_rows)]
    for start, stop in itertools.pairwise(cuts):
        if start < stop:
            # Not a product of matrices: its sums run in another order when there are other rows beside.
            scores[start:stop] = np.einsum("pd,d->p", documents[document_rows[start:stop]], queries[query_rows[start]])
    return scores


def _reaching(
    scores: Float[Tensor, "query document"], limits: Float32[np.ndarray, " query"]
) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"], Float32[np.ndarray, " pair"]]:
    """Queries, documents and scores of all pairs whose score reaches the query's limit."""
    if scores.device.type == "cpu":  # NumPy's is eight times as fast
        there = scores.numpy()
        found = np.flatnonzero(there >= limits[:, None])
        queries, rows = np.divmod(found, there.shape[1])
        return queries, rows, there.reshape(-1)[found]
    pairs = (scores >= torch.from_numpy(limits).to(scores.device)[:, None]).nonzero()
    queries, rows = pairs.T.cpu().numpy()
    return queries, rows, scores[pairs[:, 0], pairs[:, 1]].cpu().numpy()


def _in_order(numbers: Int64[np.ndarray, " number"], below: int) -> Int64[np.ndarray, " number"]:
    """The order that sorts numbers `below` a bound, equal ones as they came. Small numbers are sorted by their bits, several times as fast."""
    return np.argsort(numbers.astype(np.uint16 if below <= 1 << 16 else np.int64), kind="stable")


def _rounding(vectors: Float32[np.ndarray, "vector dimension"]) -> Float32[np.ndarray, " vector"]:
    """The length of what is lost of each vector in bfloat16, with a hundredth to spare."""
    whole = torch.from_numpy(vectors)
    return 1.01 * (whole - whole.bfloat16().float()).norm(dim=1).numpy()


@contextlib.contextmanager
def _rounded_products(device: torch.device) -> Iterator[bool]:
    """Within it float32 matrices may be rounded to bfloat16 for a product, where that is several times as fast. Gives whether they are."""
    if device.type != "cpu" or not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        yield False
        return
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield True
    finally:
        settings.fp32_precision = before
