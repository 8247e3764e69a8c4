"""The sigmoid loss: each pair of a query and a document of the global batch counts by itself."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.batch import Batch, to_device
from trainer.collectives import all_rows, sum_with_gradient
from trainer.log_partition import ExcludedPairs, TilePairs, gather_queries, tiles
from trainer.microbatches import Encode
from trainer.objectives.contrastive import batch_figures
from trainer.objectives.exclusions import Exclusion, OwnPositives, excluded_documents
from trainer.objectives.objective import Outcome, TemperatureValue
from trainer.scores import Score, exact


class Bias(nn.Module):
    """A number that is added to all scores, after their division by the temperature."""

    def __init__(self, value: float, is_learned: bool) -> None:
        super().__init__()
        # The shape is (1,) because sharding strategies cannot split a parameter without dimensions.
        self.value = nn.Parameter(torch.tensor([value]), requires_grad=is_learned)

    def forward(self) -> Float[Tensor, ""]:
        """Returns the number."""
        return self.value[0]


@dataclass(frozen=True)
class Sigmoid:
    """The sigmoid loss over every document of every rank (Zhai et al. 2023, equation 1).

    With x = score / temperature + bias, a query and its own positive cost log(1 + exp(-x)), and any
    other pair costs log(1 + exp(x)). The loss is the sum over all pairs of the global batch,
    divided by the number of queries.
    """

    score: Score
    bias: Bias
    exclusions: tuple[Exclusion, ...] = ()
    """Rules for documents that are no negatives, in addition to known positives."""

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of the global batch."""
        queries, documents = encode(batch.queries), encode(batch.documents)
        bias = self.bias()
        all_queries = gather_queries(queries, temperature)
        excluded_pairs = excluded_documents(batch, self.exclusions)
        positives = OwnPositives.of(len(queries), len(documents))
        own_loss, own_excluded_count = _Tiles.apply(
            all_queries, exact(documents), bias, self.score, excluded_pairs, positives
        )
        loss = sum_with_gradient(own_loss) / all_rows(len(queries))
        figures = batch_figures(queries, documents, all_queries.detach(), own_excluded_count)
        excluded_count = figures.pop("excluded")
        return Outcome(loss, {"masked_false_negatives": excluded_count, "bias": bias, **figures})


class _Tile(NamedTuple):
    """The scores of a tile, the inputs of their graph, and what each pair costs."""

    inputs: tuple[Tensor, Tensor]
    scores: Tensor
    exponents: Tensor
    """x for a pair that costs log(1 + exp(x)): minus infinity for excluded pairs."""
    positives: TilePairs
    excluded_count: int


class _Tiles(torch.autograd.Function):
    """The sum of the loss over all queries and this rank's documents, in tiles that are computed
    again in the backward pass; also the number of excluded pairs.

    The derivative of log(1 + exp(x)) is sigmoid(x).
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        documents: Tensor,
        bias: Tensor,
        score: Score,
        excluded_pairs: ExcludedPairs,
        positives: OwnPositives,
    ) -> tuple[Tensor, Tensor]:
        total, excluded_count = queries.new_zeros(()), 0
        ctx.settings = score, excluded_pairs, positives
        ctx.save_for_backward(queries, documents, bias)
        for places in tiles(queries, documents, 0):
            tile = _tile(queries, documents, bias, places, False, *ctx.settings)
            total += functional.softplus(tile.exponents).sum()
            excluded_count += tile.excluded_count
        own_excluded_count = torch.tensor(excluded_count, device=queries.device)
        ctx.mark_non_differentiable(own_excluded_count)
        return total, own_excluded_count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        queries, documents, bias = ctx.saved_tensors
        grad_queries, grad_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        grad_bias = queries.new_zeros(())
        for places in tiles(queries, documents, 0):
            tile = _tile(queries, documents, bias, places, True, *ctx.settings)
            grad_scores = tile.exponents.sigmoid_().mul_(grad_total)
            grad_scores[tile.positives] *= -1
            grad_tile = torch.autograd.grad(tile.scores, tile.inputs, grad_scores)
            grad_queries[places[0]] += grad_tile[0]
            grad_documents[places[1]] += grad_tile[1]
            grad_bias += grad_scores.sum()
        return grad_queries, grad_documents, grad_bias.to(bias), None, None, None


def _tile(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    bias: Float[Tensor, ""],
    places: tuple[slice, slice],
    with_graph: bool,
    score: Score,
    excluded_pairs: ExcludedPairs,
    positives: OwnPositives,
) -> _Tile:
    """Returns one tile. Only its scores have a graph."""
    tile_queries, tile_documents = places
    inputs = (
        queries[tile_queries].detach().requires_grad_(with_graph),
        documents[tile_documents].detach().requires_grad_(with_graph),
    )
    with torch.set_grad_enabled(with_graph):
        scores = score(*inputs)
    exponents, excluded_count = scores.detach() + bias, 0
    pairs = excluded_pairs.in_tile(tile_queries, tile_documents)
    if pairs is not None:
        exponents[to_device(torch.stack(pairs), exponents.device).unbind()] = -torch.inf
        excluded_count = len(pairs[0])
    own_pairs = torch.stack(positives.in_tile(tile_queries, tile_documents))
    rows, columns = to_device(own_pairs, exponents.device).unbind()
    exponents[rows, columns] *= -1
    return _Tile(inputs, scores, exponents, (rows, columns), excluded_count)
