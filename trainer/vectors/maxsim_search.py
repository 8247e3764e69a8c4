"""Exact search by late interaction: the largest MaxSim scores over ragged documents, found block by
block in bounded memory.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from trainer.errors import BadData
from trainer.kernels.matmul import linear
from trainer.vectors.ragged import document_ranges
from trainer.vectors.ranking import with_block

_PRODUCTS_AT_ONCE = 1 << 22
_TOKENS_AT_ONCE = 1 << 15
_QUERIES_AT_ONCE = 64


class MaxSimSearch:
    """The k documents with the largest MaxSim with each query, of blocks of documents shown one
    after the other; rows of zeros in a query do not count.

    At most `products_at_once` products (16 MB) are held at a time, so the documents may be a memory
    map, of float16 too. Raises BadData for a query all of zeros.
    """

    def __init__(
        self,
        queries: Float[np.ndarray, "query query_token dimension"],
        k: int,
        products_at_once: int = _PRODUCTS_AT_ONCE,
    ) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one document")
        check_queries(queries)
        self._k, self._products_at_once = k, products_at_once
        self._groups = [
            _Group(*flat_queries(queries[start : start + _QUERIES_AT_ONCE]))
            for start in range(0, len(queries), _QUERIES_AT_ONCE)
        ]

    def add(
        self,
        vectors: Float[np.ndarray, "token dimension"],
        offsets: Int64[np.ndarray, " document_plus_one"],
        first_row: int,
        deleted: Bool[np.ndarray, " document"] | None = None,
    ) -> None:
        """Looks through the documents, whose rows begin with `first_row`; `deleted` ones are never
        found. Blocks come in the order of rows.
        """
        for group in self._groups:
            tokens = max(1, min(_TOKENS_AT_ONCE, self._products_at_once // len(group.tokens)))
            for first, last in document_ranges(offsets, tokens):
                scores = maxsim_scores(
                    group.tokens,
                    group.starts,
                    vectors[offsets[first] : offsets[last]],
                    offsets[first : last + 1],
                )
                if deleted is not None:
                    scores[:, deleted[first:last]] = -np.inf
                group.add(torch.from_numpy(scores), first_row + first, self._k)

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Scores and rows, best first, equal scores in the order of rows; minus infinity and row -1
        where there are fewer than k documents with a token.
        """
        count = sum(len(group.starts) for group in self._groups)
        scores = np.full((count, self._k), -np.inf, np.float32)
        rows = np.full((count, self._k), -1, np.int64)
        start = 0
        for group in self._groups:
            stop, found = start + len(group.starts), group.scores.shape[1]
            scores[start:stop, :found], rows[start:stop, :found] = group.scores, group.rows
            start = stop
        return scores, np.where(np.isneginf(scores), -1, rows)


class _Group:
    """Some queries and the best documents so far."""

    def __init__(
        self, tokens: Float[Tensor, "token dimension"], starts: Int64[np.ndarray, " query"]
    ) -> None:
        self.tokens, self.starts = tokens, starts
        self.scores = torch.empty(len(starts), 0)
        self.rows = torch.empty(len(starts), 0, dtype=torch.long)

    def add(self, scores: Float[Tensor, "query document"], first_row: int, k: int) -> None:
        self.scores, self.rows = with_block(self.scores, self.rows, scores, first_row, k)


def check_queries(queries: Float[np.ndarray, "query query_token dimension"]) -> None:
    """Raises BadData where a query has no token that counts; where the texts are known,
    `trainer.retrieval.encoding.encode.encode_queries` names it.
    """
    if (empty := np.flatnonzero(~queries.any((1, 2)))).size:
        raise BadData(
            f"query {empty[0] + 1} of {len(queries)} has no token that the model scores"
            " (punctuation alone, perhaps); say what to look for in words"
        )


def flat_queries(
    queries: Float[np.ndarray, "query query_token dimension"],
) -> tuple[Float[Tensor, "token dimension"], Int64[np.ndarray, " query"]]:
    """The tokens of all queries that count, end to end, and where each query begins; none may be
    without any.
    """
    is_vector = queries.any(-1)
    counts = is_vector.sum(1)
    return torch.from_numpy(queries[is_vector].astype(np.float32)), np.cumsum(counts) - counts


def maxsim_scores(
    queries: Float[Tensor, "query_token dimension"],
    starts: Int64[np.ndarray, " query"],
    vectors: Float[np.ndarray, "token dimension"],
    offsets: Int64[np.ndarray, " document_plus_one"],
) -> Float32[np.ndarray, "query document"]:
    """MaxSim of every query with every document, minus infinity where it has no token; `offsets`
    may begin anywhere.

    Products lie query token by query token, so that the maximum runs over neighbours in memory:
    five times as fast as the other way round.
    """
    tokens = torch.from_numpy(vectors.astype(np.float32, copy=False))
    with torch.autocast("cpu", enabled=False):  # validation runs inside the trainer's autocast
        products = linear(queries, tokens).numpy()
    not_empty = np.flatnonzero(np.diff(offsets))
    scores = np.full((len(starts), len(offsets) - 1), -np.inf, dtype=np.float32)
    if not_empty.size:
        best = np.maximum.reduceat(products, offsets[not_empty] - offsets[0], axis=1)
        scores[:, not_empty] = np.add.reduceat(best, starts, axis=0)
    return scores
