"""The log-sum-exp of the scores of all candidates on all ranks, computed in tiles. The complete
matrix of scores never exists in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.batch import to_device
from trainer.collectives import gather, logsumexp_over_ranks
from trainer.scores import Score, exact

TilePairs = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]
"""Rows and columns of scores within a tile. Each pair appears once."""

TILE_SCORES = {"cpu": 2**20, "cuda": 2**24}
"""Number of scores in memory at once, one per token of a query. A score of token vectors divides
its own products further (`trainer.kernels.maxsim`).
"""
KEPT_NUMBERS = {"cpu": 2**24, "cuda": 2**26}
"""Number of values that tiles keep for the backward pass, one per token of a query and document.
They take 64 MB on a CPU and 256 MB on a GPU for every batch size, or a quarter with MaxSim.

On a CPU, this is enough for all scores of a batch of 4 096, where it saves a fifth of the time. At
16 384 it saves 6 %, and a limit four times as high saves no more. On a GPU, it is enough for MaxSim
of 1 024 queries of 32 tokens with 2 048 documents.
"""
_LOG_OF_EMPTY_SUM = -1e30  # finite, so that the difference of two is defined


@runtime_checkable
class ExcludedPairs(Protocol):
    """Pairs of a query of any rank and a document of this rank that are not compared."""

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """Returns the pairs within a tile, as places in the tile, or None if there are none."""


@dataclass(frozen=True)
class ScoreLimits:
    """The range of scores, divided by the temperature, in which a document counts. None means no
    limit.
    """

    lowest: Float[Tensor, " all_queries"] | None
    """The lowest score that counts, for each query."""
    upper: Float[Tensor, " all_queries"] | None
    """Scores count only below this value, for each query."""

    def outside(
        self, scores: Float[Tensor, "query document"], queries: slice
    ) -> Bool[Tensor, "query document"]:
        """Returns True where a score of these queries does not count."""
        outside = torch.zeros_like(scores, dtype=torch.bool)
        if self.lowest is not None:
            outside |= scores < self.lowest[queries, None]
        if self.upper is not None:
            outside |= scores >= self.upper[queries, None]
        return outside

    def times(self, factor: float) -> Self:
        """Returns the limits for scores that are `factor` times as large."""
        limits = (None if limit is None else limit * factor for limit in (self.lowest, self.upper))
        return type(self)(*limits)


class LogPartition(NamedTuple):
    """Log-sum-exps over candidates, for the whole global batch on every rank."""

    queries: Float[Tensor, " all_queries"]
    """Log-sum-exp over all documents of all ranks, for each query."""
    positives: Float[Tensor, " all_queries"] | None
    """Log-sum-exp over all queries of all ranks, for each query's positive."""
    excluded_counts: Int[Tensor, " all_queries"]
    """Number of documents of this rank that were excluded, for each query."""
    all_queries: Float[Tensor, "all_queries ..."]
    """The queries of all ranks, divided by the temperature, without gradient."""


def log_partition(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    excluded_pairs: ExcludedPairs | None = None,
    limits: ScoreLimits | None = None,
    symmetric: bool = False,
) -> LogPartition:
    """Returns the log of the sum of exp(score / temperature) over the documents of all ranks.

    Queries are sent to all ranks and documents stay on theirs. Each rank scores the queries of all
    ranks against its own documents, in tiles, and the ranks exchange one partial logarithm per
    query. The first tiles, up to `KEPT_NUMBERS`, keep their scores for the backward pass. The other
    tiles are computed again, which makes 6 to 8 B^2 D operations and O(B D) memory.

    With `symmetric`, the same pass also sums over the queries for each positive, which is the first
    of each query's documents. Scores of `excluded_pairs` or outside `limits` are minus infinity,
    never zero. A score must be linear in the length of the query, as dot products and sums of them
    are. It should keep no more than one value per token of a query and document.
    """
    all_queries = gather_queries(queries, temperature)
    stride = len(documents) // len(queries) if symmetric else 0
    rows, columns, excluded_counts = _Tiles.apply(
        all_queries, exact(documents), score, excluded_pairs, limits, stride
    )
    query_log_z = logsumexp_over_ranks(rows)
    log_z_of_positives = gather(columns) if symmetric else None
    return LogPartition(query_log_z, log_z_of_positives, excluded_counts, all_queries.detach())


def gather_queries(
    queries: Float[Tensor, "query ..."], temperature: Float[Tensor, ""] | float
) -> Float[Tensor, "all_queries ..."]:
    """Returns the queries of all ranks, divided by the temperature. So their scores are divided."""
    return gather(exact(queries) / temperature, padding=0.0 if queries.ndim > 2 else None)


class _Tiles(torch.autograd.Function):
    """Log-sum-exp over the rows of the matrix of scores, and over the columns of every `stride`-th
    document; also the number of excluded documents per row.

    The derivative is d lse_i / d s_ij = exp(s_ij - lse_i). So the backward pass needs both
    logarithms and the graph of each tile of scores, which is kept or computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        documents: Tensor,
        score: Score,
        excluded_pairs: ExcludedPairs | None,
        limits: ScoreLimits | None,
        stride: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = queries.new_full((len(queries),), _LOG_OF_EMPTY_SUM)
        columns = queries.new_full((len(documents[::stride]) if stride else 0,), _LOG_OF_EMPTY_SUM)
        excluded_counts = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
        places, kept_tiles = list(tiles(queries, documents, stride)), dict[int, _Tile]()
        room = _device_limit(KEPT_NUMBERS, queries) if any(ctx.needs_input_grad) else 0
        for number, (tile_queries, tile_documents) in enumerate(places):
            inputs = queries[tile_queries], documents[tile_documents]
            room -= inputs[0].shape[:-1].numel() * len(inputs[1])
            pairs = excluded_pairs.in_tile(tile_queries, tile_documents) if excluded_pairs else None
            tile = _tile(*inputs, score, pairs, limits, tile_queries, with_graph=room >= 0)
            if room >= 0:
                kept_tiles[number] = tile
            if tile.excluded_counts is not None:
                excluded_counts[tile_queries] += tile.excluded_counts
            scores = tile.scores.detach()
            rows[tile_queries] = torch.logaddexp(rows[tile_queries], scores.logsumexp(1))
            if stride:
                tile_positives = _positives(tile_documents, stride)
                columns[tile_positives] = torch.logaddexp(
                    columns[tile_positives], scores[:, ::stride].logsumexp(0)
                )
        ctx.mark_non_differentiable(excluded_counts)
        ctx.save_for_backward(queries, documents, rows, columns)
        ctx.settings = score, excluded_pairs, limits, stride, places, kept_tiles
        return rows, columns, excluded_counts

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_rows: Tensor, grad_columns: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        queries, documents, rows, columns = ctx.saved_tensors
        score, excluded_pairs, limits, stride, places, kept_tiles = ctx.settings
        grad_queries, grad_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        for number, (tile_queries, tile_documents) in enumerate(places):
            tile = kept_tiles.pop(number, None)  # a second backward pass computes all tiles again
            if tile is None:
                pairs = (
                    excluded_pairs.in_tile(tile_queries, tile_documents) if excluded_pairs else None
                )
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


def _device_limit(limits: dict[str, int], vectors: Float[Tensor, "..."]) -> int:
    return limits.get(vectors.device.type, limits["cuda"])


class _Tile(NamedTuple):
    """The scores of a tile, minus infinity for excluded pairs, and the inputs of their graph."""

    inputs: tuple[Tensor, Tensor]
    scores: Tensor
    excluded_counts: Tensor | None
    """Number of excluded documents per query; None: no document is excluded."""


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
    excluded_counts = None
    with torch.set_grad_enabled(with_graph):
        scores = score(queries, documents)
        if pairs is not None:
            rows, columns = to_device(torch.stack(pairs), scores.device)
            scores = scores.index_put((rows, columns), scores.new_full((), -torch.inf))
            excluded_counts = rows.new_zeros(len(queries)).scatter_add_(
                0, rows, torch.ones_like(rows)
            )
        if limits is not None:
            outside = limits.outside(scores.detach(), tile_queries)
            scores = scores.masked_fill(outside, -torch.inf)
            excluded_counts = scores.detach().isneginf().sum(1)
    return _Tile((queries, documents), scores, excluded_counts)


def tiles(
    queries: Float[Tensor, "query ..."], documents: Float[Tensor, "document ..."], stride: int
) -> Iterator[tuple[slice, slice]]:
    """Yields nearly square tiles as slices of queries and documents.

    A tile has about `TILE_SCORES` scores, counted per query vector, and whole strides of documents.
    """
    room = _device_limit(TILE_SCORES, queries)
    side = max(1, int((room / queries.shape[1:-1].numel()) ** 0.5))
    unit = max(1, stride)
    width = max(unit, side // unit * unit)
    for column in range(0, len(documents), width):
        for row in range(0, len(queries), side):
            yield (
                slice(row, min(row + side, len(queries))),
                slice(column, min(column + width, len(documents))),
            )


def _positives(documents: slice, stride: int) -> slice:
    return slice(documents.start // stride, -(-documents.stop // stride))
