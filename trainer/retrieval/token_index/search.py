"""Exact search by late interaction: the largest MaxSim scores over ragged documents, found block by
block in bounded memory.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from trainer.errors import BadData
from trainer.kernels.matmul import linear
from trainer.retrieval.indexes.search import with_block
from trainer.retrieval.vectors.token_vectors import TokenVectors, blocks

_PRODUCTS_AT_ONCE = 1 << 22
_TOKENS_AT_ONCE = 1 << 15
_QUERIES_AT_ONCE = 64


def top_k_maxsim(
    queries: Float[np.ndarray, "query query_token dimension"],
    documents: TokenVectors,
    k: int,
    deleted: Bool[np.ndarray, " document"] | None = None,
    products_at_once: int = _PRODUCTS_AT_ONCE,
) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
    """Scores and rows of the k documents with the largest MaxSim with each query, best first; rows
    of zeros in a query do not count.

    Raises BadData for a query all of zeros.

    Equal scores are put in the order of the documents. Where there are fewer than k documents, all
    come back; one without any token, or `deleted`, scores minus infinity. At most
    `products_at_once` products (16 MB) and one block of document tokens are held at a time, so the
    documents may be a memory map, of float16 too.

    >>> documents = TokenVectors(np.float32([[1, 0], [0, 1], [2, 0]]), np.array([0, 2, 3]))
    >>> scores, rows = top_k_maxsim(np.float32([[[1, 0], [0, 1]]]), documents, k=2)
    >>> scores.tolist(), rows.tolist()
    ([[2.0, 2.0]], [[0, 1]])
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one document")
    check_queries(queries)
    groups = [
        queries[start : start + _QUERIES_AT_ONCE]
        for start in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    found = [_top_of_group(some, documents, k, deleted, products_at_once) for some in groups]
    empty = (
        np.empty((0, min(k, len(documents))), np.float32),
        np.empty((0, min(k, len(documents))), np.int64),
    )
    scores, rows = zip(empty, *found, strict=True)
    return np.concatenate(scores), np.concatenate(rows)


def _top_of_group(
    queries: Float[np.ndarray, "query query_token dimension"],
    documents: TokenVectors,
    k: int,
    deleted: Bool[np.ndarray, " document"] | None,
    products_at_once: int,
) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
    flat, starts = flat_queries(queries)
    best_scores, best_rows = (
        torch.empty(len(queries), 0),
        torch.empty(len(queries), 0, dtype=torch.long),
    )
    for first, last in blocks(
        documents.offsets, max(1, min(_TOKENS_AT_ONCE, products_at_once // len(flat)))
    ):
        scores = maxsim_scores(
            flat,
            starts,
            documents.vectors[documents.offsets[first] : documents.offsets[last]],
            documents.offsets[first : last + 1],
        )
        if deleted is not None:
            scores[:, deleted[first:last]] = -np.inf
        best_scores, best_rows = with_block(
            best_scores, best_rows, torch.from_numpy(scores), first, k
        )
    return best_scores.numpy(), best_rows.numpy()


def check_queries(queries: Float[np.ndarray, "query query_token dimension"]) -> None:
    """Raises BadData where a query has no token that counts; where the texts are known,
    `trainer.retrieval.vectors.token_vectors.encode_queries` names it.
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
    there = queries.any(-1)
    counts = there.sum(1)
    return torch.from_numpy(queries[there].astype(np.float32)), np.cumsum(counts) - counts


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
    there = np.flatnonzero(np.diff(offsets))
    scores = np.full((len(starts), len(offsets) - 1), -np.inf, dtype=np.float32)
    if there.size:
        best = np.maximum.reduceat(products, offsets[there] - offsets[0], axis=1)
        scores[:, there] = np.add.reduceat(best, starts, axis=0)
    return scores
