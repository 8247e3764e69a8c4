"""Exact search by late interaction: the documents with the largest MaxSim scores.

Documents have different numbers of tokens. The search reads them in blocks, so its memory is
bounded.
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
    """Finds the k documents with the largest MaxSim per query, in blocks of documents.

    Rows of zeros in a query do not count. Memory holds at most `products_at_once` products (default
    16 MB), so documents may be a memory map, also in float16. Raises BadData for a query that has
    only zeros.
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
        is_deleted: Bool[np.ndarray, " document"] | None = None,
    ) -> None:
        """Searches a block of documents, whose row numbers begin with `first_row`.

        Documents for which `is_deleted` is true are never found. Blocks must be added in the order
        of their rows.
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
                if is_deleted is not None:
                    scores[:, is_deleted[first:last]] = -np.inf
                group.add(torch.from_numpy(scores), first_row + first, self._k)

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Returns scores and rows, best first; equal scores are in the order of their rows.

        Where fewer than k documents have a token, the score is minus infinity and the row -1.
        """
        count = sum(len(group.starts) for group in self._groups)
        scores = np.full((count, self._k), -np.inf, np.float32)
        rows = np.full((count, self._k), -1, np.int64)
        start = 0
        for group in self._groups:
            stop, ranks = start + len(group.starts), group.scores.shape[1]
            scores[start:stop, :ranks], rows[start:stop, :ranks] = group.scores, group.rows
            start = stop
        return scores, np.where(np.isneginf(scores), -1, rows)


class _Group:
    """A group of queries and their best documents so far."""

    def __init__(
        self, tokens: Float[Tensor, "token dimension"], starts: Int64[np.ndarray, " query"]
    ) -> None:
        self.tokens, self.starts = tokens, starts
        self.scores = torch.empty(len(starts), 0)
        self.rows = torch.empty(len(starts), 0, dtype=torch.long)

    def add(self, scores: Float[Tensor, "query document"], first_row: int, k: int) -> None:
        self.scores, self.rows = with_block(self.scores, self.rows, scores, first_row, k)


def check_queries(queries: Float[np.ndarray, "query query_token dimension"]) -> None:
    """Raises BadData when a query has no token that counts.

    `trainer.retrieval.encoding.encode.encode_queries` knows the texts and quotes the query.
    """
    if (empty := np.flatnonzero(~queries.any((1, 2)))).size:
        raise BadData(
            f"query {empty[0] + 1} of {len(queries)} has no token that the model scores"
            " (punctuation alone, perhaps); write the query in words"
        )


def flat_queries(
    queries: Float[np.ndarray, "query query_token dimension"],
) -> tuple[Float[Tensor, "token dimension"], Int64[np.ndarray, " query"]]:
    """Returns the tokens that count of all queries, end to end, and the start of each query.

    Every query must have at least one token that counts.
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
    """Returns the MaxSim of every query with every document.

    It is minus infinity for a document without tokens. The first of `offsets` need not be 0. There
    is one row of products per query token, so the maximum runs over neighbours in memory: this is
    five times as fast as one column per query token.
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
