"""Exact search block by block: a quick product of matrices leaves out what cannot be among the
best, and the few left are scored one by one.

The product is of vectors rounded to bfloat16 where the processor has instructions for it: what it
leaves out is out by more than its rounding can amount to. A score is the sum over one pair of
vectors alone, so neither it nor the order depends on blocks, threads or ranks.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import BFloat16, Float, Float32, Int, Int16, Int64
from torch import Tensor

DOCUMENTS_AT_ONCE = 1 << 14
_FEW_QUERIES = 64
"""Fewer queries are multiplied in float32: rounding the documents would take longer."""
_DOCUMENTS_A_PRODUCT = 1 << 12
_SCORES_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 26}
_MEMBERS = 16
_FLOAT32, _BFLOAT16 = 1.01 * 2.0**-24, 1.01 * 2.0**-8
"""By how much a number rounded to the nearest differs at most, relative to itself, and a hundredth
more for products of such differences.
"""

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)


@dataclass(frozen=True)
class Extent:
    """What bounds the errors of products with some vectors."""

    longest: float
    """The length of the longest."""
    rounding: float
    """The longest of the differences to the same vectors in bfloat16; 0 where products are not
    rounded.
    """

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "vector dimension"], is_rounded: bool) -> "Extent":
        """That of vectors whose products are computed in bfloat16 (`is_rounded`) or float32."""
        return cls(
            float(_lengths(vectors).max(initial=0.0)),
            float(_rounding(vectors).max(initial=0.0)) if is_rounded else 0.0,
        )


class ScreenedSearch:
    """The k best documents of some queries, of blocks of documents shown one after the other. At
    most 16 MB of scores are held at a time.

    >>> search = ScreenedSearch(np.eye(2, dtype="float32"), k=2)
    >>> search.add(np.float32([[1, 0], [0, 3]]), first_row=0)
    >>> search.add(np.float32([[1, 0], [2, 2]]), first_row=2)
    >>> scores, rows = search.best()
    >>> rows.tolist(), scores.tolist()
    ([[3, 0], [1, 3]], [[2.0, 1.0], [3.0, 2.0]])
    """

    def __init__(
        self,
        queries: Float32[np.ndarray, "query dimension"],
        k: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one document")
        self._queries, self._k, self._device = queries, k, torch.device(device)
        self.is_rounded = len(queries) >= _FEW_QUERIES and _rounds(self._device)
        """Whether products are computed in bfloat16."""
        self._there = self._for_products(queries)
        self._lengths, self._roundings = (
            _lengths(queries),
            (_rounding(queries) if self.is_rounded else np.zeros(len(queries))),
        )
        self._largest = np.full((len(queries), k), -np.inf, np.float32)
        """Of each query the k largest among the maxima of groups of documents: the smallest is a
        score that k documents reach.
        """
        self._error = np.zeros(len(queries))
        """By how much a score of a product may be off, over all documents so far, before it is
        rounded itself.
        """
        self._found: list[
            tuple[
                Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"], Float32[np.ndarray, " pair"]
            ]
        ] = []

    def add(
        self,
        documents: Float32[np.ndarray, "document dimension"],
        first_row: int,
        extent: Extent | None = None,
    ) -> None:
        """Looks through the documents, whose rows begin with `first_row`. Blocks come in the order
        of rows. `extent`: of these documents, if it is known.
        """
        if extent is None:
            extent = Extent.of(documents, self.is_rounded)
        # Of q'd' for qd: |q'd' - qd| <= |q' - q||d| + |q'||d' - d|, and the sum of `dimension`
        # products in float32 beside.
        sums = 2 * documents.shape[1] * _FLOAT32 * extent.longest * self._lengths
        error = self._roundings * extent.longest + 1.01 * self._lengths * extent.rounding + sums
        self._error = np.maximum(self._error, error)
        # Validation runs inside the trainer's autocast.
        with torch.autocast(self._device.type, enabled=False):
            for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
                self._add(documents[start : start + DOCUMENTS_AT_ONCE], first_row + start)

    def _add(self, documents: Float32[np.ndarray, "document dimension"], first_row: int) -> None:
        there = self._for_products(documents)
        width = min(_DOCUMENTS_A_PRODUCT, len(documents))
        step = max(1, _SCORES_AT_ONCE.get(self._device.type, _SCORES_AT_ONCE["cuda"]) // width)
        room = there.new_empty(
            min(step, len(self._queries)) * width
        )  # made once: fresh pages take as long as the product
        for start in range(0, len(self._queries), step):
            self._screen(
                slice(start, min(start + step, len(self._queries))),
                documents,
                there,
                first_row,
                room,
            )

    def _for_products(
        self, vectors: Float32[np.ndarray, "vector dimension"]
    ) -> Float[Tensor, "vector dimension"]:
        return torch.from_numpy(vectors).to(
            self._device, torch.bfloat16 if self.is_rounded else torch.float32
        )

    def _screen(
        self,
        some: slice,
        documents: Float32[np.ndarray, "document dimension"],
        there: Float[Tensor, "document dimension"],
        first_row: int,
        room: Float[Tensor, " score"],
    ) -> None:
        """Looks through documents for some queries.

        k documents have a product of at least `largest`, so k exact scores are at least that less
        the error, and what is among the best has a product of at least `largest` less twice the
        error. Where products are rounded themselves, both may be off by that rounding in addition.
        """
        found, asked = [], self._there[some]
        for first in range(0, len(there), _DOCUMENTS_A_PRODUCT):
            part = there[first : first + _DOCUMENTS_A_PRODUCT]
            # A row a document: oneDNN is a third faster where there are more rows than columns.
            scores = torch.mm(
                part, asked.T, out=room[: len(part) * len(asked)].view(len(part), len(asked))
            )
            limits = self._raised(some, _maxima(scores, self._k))
            queries, rows, rounded = _reaching(scores, limits)
            found.append((queries * len(there) + rows + first, rounded))
        pairs, rounded = (np.concatenate(each) for each in zip(*found, strict=True))
        pairs = np.sort(pairs[rounded >= limits[pairs // len(there)]])  # the limit has risen since
        queries, rows = np.divmod(pairs, len(there))
        self._found.append(
            (
                queries + some.start,
                rows + first_row,
                pair_scores(self._queries[some], documents, queries, rows),
            )
        )

    def _raised(
        self, some: slice, maxima: Float32[np.ndarray, "query group"]
    ) -> Float32[np.ndarray, " query"]:
        """For each query the least product of what may be among the k best."""
        together = np.concatenate([self._largest[some], maxima], axis=1)
        together.partition(together.shape[1] - self._k, axis=1)
        self._largest[some] = together[:, -self._k :]
        largest = self._largest[some].min(1)
        of_scores = 2 * _BFLOAT16 * np.abs(largest) if self.is_rounded else 0.0
        return (largest - 2 * self._error[some] - of_scores).astype(np.float32)

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Scores and rows, best first, equal scores in the order of rows; minus infinity and row -1
        where there are fewer than k documents.
        """
        found = (
            np.empty((len(self._queries), self._k), np.float32),
            np.empty((len(self._queries), self._k), np.int64),
        )
        found[0].fill(-np.inf)
        found[1].fill(-1)
        if self._found:
            queries, rows, scores = (
                np.concatenate(each) for each in zip(*self._found, strict=True)
            )
            order = _best_first(scores, rows)
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
    """The dot product of each pair of a query and a document, whose queries come in ascending
    order; each the same whatever the others are.

    >>> pair_scores(
    ...     np.float32([[1, 2]]), np.float32([[3, 0], [0, 4]]), np.array([0, 0]), np.array([1, 0])
    ... ).tolist()
    [8.0, 3.0]
    """
    starts = np.searchsorted(query_rows, np.arange(len(queries) + 1))
    wanted = torch.sparse_csr_tensor(
        torch.from_numpy(starts),
        torch.from_numpy(document_rows),
        torch.zeros(len(query_rows)),
        (len(queries), len(documents)),
        check_invariants=False,  # rows of a query come in any order
    )
    # Not a product of matrices: its sums run in another order when there are other rows beside.
    return (
        torch.sparse.sampled_addmm(
            wanted, torch.from_numpy(queries), torch.from_numpy(documents).T, beta=0.0
        )
        .values()
        .numpy()
    )


def _maxima(scores: Float[Tensor, "document query"], k: int) -> Float32[np.ndarray, "query group"]:
    """A score of each group of documents, the largest where that may be one of the k largest. Of n
    groups, group i holds documents i, i + n, i + 2n, ...
    """
    members = min(_MEMBERS, max(1, len(scores) // (4 * k)))
    groups = len(scores) // members
    some = scores[: members * groups].unflatten(0, (members, groups))
    if scores.dtype != torch.bfloat16:
        return some.amax(0).T.cpu().numpy()
    bits = _bits(some)
    maxima = bits.max(0)
    if ((maxima > 0).sum(0) < k).any():
        maxima = _turned(_turned(bits).max(0))
    return torch.from_numpy(maxima).view(torch.bfloat16).T.float().numpy()


def _reaching(
    scores: Float[Tensor, "document query"], limits: Float32[np.ndarray, " query"]
) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"], Float32[np.ndarray, " pair"]]:
    """Queries, documents and scores of all pairs whose score reaches the query's limit."""
    if scores.device.type != "cpu":
        pairs = (scores >= torch.from_numpy(limits).to(scores.device)).nonzero()
        rows, queries = pairs.T.cpu().numpy()
        return queries, rows, scores[pairs[:, 0], pairs[:, 1]].cpu().numpy()
    if scores.dtype == torch.bfloat16:
        bits, below = _bits(scores), limits <= 0
        # The next number in bfloat16 that is not above the limit; of zero, which has two signs, one
        # that is below both.
        lowest = ((np.where(below, -np.abs(limits), limits).view(np.int32) >> 16) + below).astype(
            np.int16
        )
        if below.any():
            bits, lowest = _turned(bits), _turned(lowest)
        found = np.flatnonzero(bits >= lowest)
    else:
        found = np.flatnonzero(scores.numpy() >= limits)  # NumPy's is eight times as fast
    rows, queries = np.divmod(found, len(limits))
    rounded = scores.view(-1)[torch.from_numpy(found)].float().numpy()
    reaching = rounded >= limits[queries]
    return queries[reaching], rows[reaching], rounded[reaching]


def _bits(scores: BFloat16[Tensor, "*shape"]) -> Int16[np.ndarray, "*shape"]:
    """Numbers in bfloat16 as integers, which are compared several times as fast. Those above zero
    keep their order, and are above all others.
    """
    return scores.view(torch.int16).numpy()


def _turned(bits: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """The bits of floating-point numbers, of any width, with those below zero in their order too;
    turned twice, they are as they were.
    """
    width = np.iinfo(bits.dtype)
    turned: Int[np.ndarray, "*shape"] = bits ^ ((bits >> (width.bits - 1)) & width.max)
    return turned


def _best_first(
    scores: Float32[np.ndarray, " pair"], rows: Int64[np.ndarray, " pair"]
) -> Int64[np.ndarray, " pair"]:
    """The order of falling scores, equal ones by row: one sort of integers, several times as fast
    as a stable one of floats.

    >>> _best_first(np.float32([-2, 0, 7, -0.0]), np.array([4, 5, 6, 3])).tolist()
    [2, 3, 1, 0]
    """
    rising = _turned((scores + np.float32(0)).view(np.int32)).astype(
        np.int64
    )  # by adding, zero has one sign
    return np.argsort((-rising << 32) + rows)


def _in_order(numbers: Int64[np.ndarray, " number"], below: int) -> Int64[np.ndarray, " number"]:
    """The order that sorts numbers `below` a bound, equal ones as they came. Small numbers are
    sorted by their bits, several times as fast.
    """
    return np.argsort(numbers.astype(np.uint16 if below <= 1 << 16 else np.int64), kind="stable")


def _lengths(vectors: Float32[np.ndarray, "vector dimension"]) -> Float32[np.ndarray, " vector"]:
    """The length of each vector."""
    return np.sqrt(np.einsum("vd,vd->v", vectors, vectors))


def _rounding(vectors: Float32[np.ndarray, "vector dimension"]) -> Float32[np.ndarray, " vector"]:
    """The length of what is lost of each vector in bfloat16, with a hundredth to spare."""
    whole = torch.from_numpy(vectors)
    return 1.01 * (whole - whole.bfloat16().float()).norm(dim=1).numpy()


def _rounds(device: torch.device) -> bool:
    """Whether products on `device` are of vectors rounded to bfloat16: where that is several times
    as fast.
    """
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
