"""The sum over all candidates of all ranks, in tiles: a matrix of scores that never exists as a
whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.collectives import gather
from trainer.scores import Score, exact

TilePairs = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]
"""Rows and columns of scores within a tile, each pair once."""

TILE_SCORES = {"cpu": 2**20, "cuda": 2**24}
"""Scores that are held at once, one per token of a query: a score of token vectors divides its
products itself (`trainer.kernels.maxsim`).
"""
KEPT_NUMBERS = 2**24
"""How many numbers tiles keep for the backward pass, one per token of a query and document: 64 MB,
whatever the batch.

Enough for all 4 096 x 4 096 scores, where it saves a fifth of the time. At 16 384 it saves 6 %, and
four times as many no more than that.
"""
_NOTHING = -1e30  # log of an empty sum, finite so that no difference of two is undefined


@runtime_checkable
class ExcludedPairs(Protocol):
    """TilePairs of a query of all ranks and a document of this rank that are not compared."""

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """The pairs within a tile, as places in it; None where there are none."""


@dataclass(frozen=True)
class ScoreLimits:
    """Scores over temperature between which a document counts; None: no such limit."""

    lowest: Float[Tensor, " all_queries"] | None
    """Of each query the lowest score that counts."""
    below: Float[Tensor, " all_queries"] | None
    """Of each query the first score that no longer counts."""

    def outside(
        self, scores: Float[Tensor, "query document"], queries: slice
    ) -> Bool[Tensor, "query document"]:
        """True where a score of these queries does not count."""
        outside = torch.zeros_like(scores, dtype=torch.bool)
        if self.lowest is not None:
            outside |= scores < self.lowest[queries, None]
        if self.below is not None:
            outside |= scores >= self.below[queries, None]
        return outside

    def times(self, factor: float) -> Self:
        """The limits of scores that are `factor` times as large."""
        scaled = (None if limit is None else limit * factor for limit in (self.lowest, self.below))
        return type(self)(*scaled)


class LogPartition(NamedTuple):
    """Logs of sums of exponentials over candidates, of the whole global batch on every rank."""

    queries: Float[Tensor, " all_queries"]
    """Over all documents of all ranks, for each query."""
    positives: Float[Tensor, " all_queries"] | None
    """Over all queries of all ranks, for each query's positive."""
    excluded: Int[Tensor, " all_queries"]
    """Documents of this rank that were left out, for each query."""


def log_partition(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    excluded: ExcludedPairs | None = None,
    limits: ScoreLimits | None = None,
    symmetric: bool = False,
) -> LogPartition:
    """log of the sum over candidates of exp(score / temperature), over the documents of all ranks.

    Queries travel and documents stay: each rank scores the queries of all ranks against its own
    documents, in tiles. The first tiles keep their scores for the backward pass, up to
    `KEPT_NUMBERS`, and the others are computed again: 6 to 8 B^2 D operations and O(B D) memory.
    The ranks exchange one partial logarithm per query. With `symmetric`, the same pass also sums
    over the queries for each positive, which is the first of each query's documents. Scores that
    are `excluded` or outside `limits` are minus infinity, never zero. A score must be linear in the
    length of the query, as dot products and sums of them are, and should keep no more than one
    number per token of a query and document.
    """
    all_queries = gather_queries(queries, temperature)
    stride = len(documents) // len(queries) if symmetric else 0
    rows, columns, excluded_counts = _Tiles.apply(
        all_queries, exact(documents), score, excluded, limits, stride
    )
    query_log_z = gather(rows[None]).logsumexp(0)
    return LogPartition(query_log_z, gather(columns) if symmetric else None, excluded_counts)


def gather_queries(
    queries: Float[Tensor, "query ..."], temperature: Float[Tensor, ""] | float
) -> Float[Tensor, "all_queries ..."]:
    """The queries of all ranks over the temperature, which divides every score they have."""
    return gather(exact(queries) / temperature, padding=0.0 if queries.ndim > 2 else None)


class _Tiles(torch.autograd.Function):
    """Log-sum-exp over rows, and over columns of every `stride`-th document, of a matrix of scores
    that never exists as a whole; and the number of excluded documents per row.

    d lse_i / d s_ij = exp(s_ij - lse_i), so the backward pass needs the two logarithms and the
    graph of each tile of scores, kept or made once more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        documents: Tensor,
        score: Score,
        excluded: ExcludedPairs | None,
        limits: ScoreLimits | None,
        stride: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = queries.new_full((len(queries),), _NOTHING)
        columns = queries.new_full((len(documents[::stride]) if stride else 0,), _NOTHING)
        excluded_counts = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
        places, kept_tiles = list(tiles(queries, documents, stride)), dict[int, _Tile]()
        room = KEPT_NUMBERS if any(ctx.needs_input_grad) else 0
        for number, (tile_queries, tile_documents) in enumerate(places):
            inputs = queries[tile_queries], documents[tile_documents]
            room -= inputs[0].shape[:-1].numel() * len(inputs[1])
            pairs = excluded.in_tile(tile_queries, tile_documents) if excluded else None
            tile = _tile(*inputs, score, pairs, limits, tile_queries, with_graph=room >= 0)
            if room >= 0:
                kept_tiles[number] = tile
            if tile.excluded is not None:
                excluded_counts[tile_queries] += tile.excluded
            scores = tile.scores.detach()
            rows[tile_queries] = torch.logaddexp(rows[tile_queries], scores.logsumexp(1))
            if stride:
                tile_positives = _positives(tile_documents, stride)
                columns[tile_positives] = torch.logaddexp(
                    columns[tile_positives], scores[:, ::stride].logsumexp(0)
                )
        ctx.mark_non_differentiable(excluded_counts)
        ctx.save_for_backward(queries, documents, rows, columns)
        ctx.settings = score, excluded, limits, stride, places, kept_tiles
        return rows, columns, excluded_counts

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_rows: Tensor, grad_columns: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        queries, documents, rows, columns = ctx.saved_tensors
        score, excluded, limits, stride, places, kept_tiles = ctx.settings
        grad_queries, grad_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        for number, (tile_queries, tile_documents) in enumerate(places):
            tile = kept_tiles.pop(number, None)  # a second backward pass computes all again
            if tile is None:
                pairs = excluded.in_tile(tile_queries, tile_documents) if excluded else None
                inputs = queries[tile_queries], documents[tile_documents]
                tile = _tile(*inputs, score, pairs, limits, tile_queries, with_graph=True)
            scores = tile.scores.detach()
            grad_scores = (
                (scores - rows[tile_queries, None]).exp_().mul_(grad_rows[tile_queries, None])
            )
            if stride:
                tile_positives = _positives(tile_documents, stride)
                grad_scores[:, ::stride] += (
                    (scores[:, ::stride] - columns[tile_positives])
                    .exp_()
                    .mul_(grad_columns[tile_positives])
                )
            grad_tile = torch.autograd.grad(tile.scores, tile.inputs, grad_scores)
            grad_queries[tile_queries] += grad_tile[0]
            grad_documents[tile_documents] += grad_tile[1]
        return grad_queries, grad_documents, None, None, None, None


class _Tile(NamedTuple):
    """Scores, minus infinity where excluded, and the inputs that they have a graph to."""

    inputs: tuple[Tensor, Tensor]
    scores: Tensor
    excluded: Tensor | None


def _tile(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    pairs: TilePairs | None,
    limits: ScoreLimits | None,
    tile_queries: slice,
    with_graph: bool,
) -> _Tile:
    queries = queries.detach().requires_grad_(with_graph)
    documents = documents.detach().requires_grad_(with_graph)
    excluded = None
    with torch.set_grad_enabled(with_graph):
        scores = score(queries, documents)
        if pairs is not None:
            rows, columns = (place.to(scores.device) for place in pairs)
            scores = scores.index_put((rows, columns), scores.new_tensor(-torch.inf))
            excluded = rows.new_zeros(len(queries)).scatter_add_(0, rows, torch.ones_like(rows))
        if limits is not None:
            outside = limits.outside(scores.detach(), tile_queries)
            scores = scores.masked_fill(outside, -torch.inf)
            excluded = scores.detach().isneginf().sum(1)
    return _Tile((queries, documents), scores, excluded)


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
