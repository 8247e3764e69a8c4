"""The sum over all candidates of all ranks, in tiles: a matrix of scores that never exists as a
whole.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.collectives import SUM, agreed, gather
from trainer.scores import Score, exact

Excluded = Callable[[slice, slice], Bool[Tensor, "query document"] | None]
"""(some queries of all ranks, some documents of this rank) to True where a document is not a
candidate; None: all are.
"""

TILE_SCORES = {"cpu": 2**20, "cuda": 2**24}
"""Scores that are held at once, one for each token of a query: a score of token vectors divides its
products itself (`trainer.kernels.maxsim`).
"""
KEPT_NUMBERS = 2**24
"""How many numbers tiles keep for the backward pass, one for each token of a query and each
document: 64 MB, whatever the batch.

Enough for all 4 096 x 4 096 scores, where it saves a fifth of the time. At 16 384 it saves 6 %, and
four times as many no more than that.
"""
_NOTHING = -1e30  # log of an empty sum, finite so that no difference of two is undefined


class LogPartition(NamedTuple):
    """Logs of sums of exponentials over candidates, of the whole global batch on every rank."""

    of_queries: Float[Tensor, " query"]
    """Over all documents of all ranks, for each query."""
    of_positives: Float[Tensor, " query"] | None
    """Over all queries of all ranks, for each query's positive."""
    excluded: int
    """How many pairs of a query and a document were left out."""


def log_partition(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    excluded: Excluded,
    symmetric: bool = False,
) -> LogPartition:
    """log of the sum over candidates of exp(score / temperature), over the documents of all ranks.

    Queries travel and documents stay: each rank scores the queries of all ranks against its own
    documents, in tiles. The first tiles keep their scores for the backward pass, up to
    `KEPT_NUMBERS`, and the others are computed again: 6 to 8 B^2 D operations and O(B D) memory.
    The ranks exchange one partial logarithm a query. With `symmetric`, the same pass also sums over
    the queries for each positive, which is every first of a query's documents. Excluded scores are
    minus infinity, never zero. A score must be linear in the length of the query, as dot products
    and sums of them are, and should keep no more than a number for each token of a query and each
    document.
    """
    everyone = gather(exact(queries) / temperature, padding=0.0 if queries.ndim > 2 else None)
    stride = len(documents) // len(queries) if symmetric else 0
    count = [0]
    rows, columns = _Tiles.apply(everyone, exact(documents), score, excluded, stride, count)
    of_queries = gather(rows[None]).logsumexp(0)
    return LogPartition(of_queries, gather(columns) if symmetric else None, agreed(count, SUM)[0])


class _Tiles(torch.autograd.Function):
    """Log-sum-exp over rows, and over columns of every `stride`-th document, of a matrix of scores
    that never exists as a whole.

    d lse_i / d s_ij = exp(s_ij - lse_i), so the backward pass needs the two logarithms and the
    graph of each tile of scores, kept or made once more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        documents: Tensor,
        score: Score,
        excluded: Excluded,
        stride: int,
        count: list[int],
    ) -> tuple[Tensor, Tensor]:
        rows = queries.new_full((len(queries),), _NOTHING)
        columns = queries.new_full((len(documents[::stride]) if stride else 0,), _NOTHING)
        cut, kept = list(tiles(queries, documents, stride)), dict[int, _Tile]()
        left = KEPT_NUMBERS if any(ctx.needs_input_grad) else 0
        for number, (some_queries, some_documents) in enumerate(cut):
            some = queries[some_queries], documents[some_documents]
            left -= some[0].shape[:-1].numel() * len(some[1])
            tile = _tile(*some, score, excluded(some_queries, some_documents), graph=left >= 0)
            if left >= 0:
                kept[number] = tile
            count[0] += tile.left_out
            scores = tile.scores.detach()
            rows[some_queries] = torch.logaddexp(rows[some_queries], scores.logsumexp(1))
            if stride:
                some_positives = _positives(some_documents, stride)
                columns[some_positives] = torch.logaddexp(
                    columns[some_positives], scores[:, ::stride].logsumexp(0)
                )
        ctx.save_for_backward(queries, documents, rows, columns)
        ctx.settings = score, excluded, stride, cut, kept
        return rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor | None, ...]:
        queries, documents, rows, columns = ctx.saved_tensors
        score, excluded, stride, cut, kept = ctx.settings
        of_queries, of_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        for number, (some_queries, some_documents) in enumerate(cut):
            tile = kept.pop(
                number, None
            )  # a second backward pass finds none and computes all again
            if tile is None:
                tile = _tile(
                    queries[some_queries],
                    documents[some_documents],
                    score,
                    excluded(some_queries, some_documents),
                    graph=True,
                )
            scores = tile.scores.detach()
            of_scores = (scores - rows[some_queries, None]).exp_().mul_(of_rows[some_queries, None])
            if stride:
                some_positives = _positives(some_documents, stride)
                of_scores[:, ::stride] += (
                    (scores[:, ::stride] - columns[some_positives])
                    .exp_()
                    .mul_(of_columns[some_positives])
                )
            of_tile = torch.autograd.grad(tile.scores, tile.inputs, of_scores)
            of_queries[some_queries] += of_tile[0]
            of_documents[some_documents] += of_tile[1]
        return of_queries, of_documents, None, None, None, None


class _Tile(NamedTuple):
    """Scores, minus infinity where excluded, and the inputs that they have a graph to."""

    inputs: tuple[Tensor, Tensor]
    scores: Tensor
    left_out: int


def _tile(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    mask: Bool[Tensor, "query document"] | None,
    graph: bool,
) -> _Tile:
    inputs = queries.detach().requires_grad_(graph), documents.detach().requires_grad_(graph)
    with torch.set_grad_enabled(graph):
        scores = score(*inputs)
        if mask is None:
            return _Tile(inputs, scores, 0)
        return _Tile(
            inputs, scores.masked_fill(mask.to(scores.device), -torch.inf), int(mask.sum())
        )


def tiles(
    queries: Float[Tensor, "query ..."], documents: Float[Tensor, "document ..."], stride: int
) -> Iterator[tuple[slice, slice]]:
    """Near-square tiles of about `TILE_SCORES` scores of a vector of a query with a document, in
    whole strides of documents.
    """
    room = TILE_SCORES.get(queries.device.type, TILE_SCORES["cuda"])
    side = max(1, int((room / queries.shape[1:-1].numel()) ** 0.5))
    unit = max(1, stride)
    wide = max(unit, side // unit * unit)
    for column in range(0, len(documents), wide):
        for row in range(0, len(queries), side):
            yield (
                slice(row, min(row + side, len(queries))),
                slice(column, min(column + wide, len(documents))),
            )


def _positives(documents: slice, stride: int) -> slice:
    return slice(documents.start // stride, -(-documents.stop // stride))
