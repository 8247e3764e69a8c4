"""Which in-batch negatives count, by how hard they are: the hardest of each query, those that score
below its positive, or all by weight.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.collectives import SUM, all_reduce_integers, all_rows, gather, sum_over_ranks
from trainer.log_partition import (
    ExcludedPairs,
    ScoreLimits,
    TilePairs,
    gather_queries,
    log_partition,
    tiles,
)
from trainer.objectives.exclusions import OwnPositives
from trainer.scores import Score, exact

_ROUNDING = 1e-6
"""The last negative that counts must reach its own limit, however its score is rounded."""
_LOG_OF_NONE = -1e30


@dataclass(frozen=True, slots=True)
class Hardness:
    """What makes a negative count; the hardest are taken over the documents of all ranks."""

    top_k: int | None = None
    """Number of hardest negatives per query; None: all."""
    semi_hard: bool = False
    """Only those that score below the query's positive (Schroff et al. 2015, section 3.2)."""
    beta: float = 0.0
    """Weight each by exp(beta * score / temperature) over the mean weight (Robinson et al. 2021,
    equation 4); 0: all alike.
    """


class HardLogPartition(NamedTuple):
    """The partition over the positive and the negatives that count."""

    log_z: Float[Tensor, " all_queries"]
    excluded: int
    """TilePairs of a query and a negative that do not count, on all ranks."""


@dataclass(frozen=True)
class _Negatives:
    """`excluded`, and each query's own positive too. The two never overlap."""

    excluded: ExcludedPairs
    own: OwnPositives

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        own_pairs = self.own.in_tile(queries, documents)
        pairs = self.excluded.in_tile(queries, documents)
        if own_pairs is None or pairs is None:
            return own_pairs or pairs
        return torch.cat([own_pairs[0], pairs[0]]), torch.cat([own_pairs[1], pairs[1]])


def hard_log_partition(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    excluded: ExcludedPairs,
    positive_scores: Float[Tensor, " all_queries"],
    hardness: Hardness,
) -> HardLogPartition:
    """log(exp(positive) + sum over the negatives that count of w exp(score / temperature)).

    `positive_scores` are those of each query of all ranks with its positive, over the temperature.
    A query with no negative left has a partition of its positive score, and so no loss. Which
    negatives count has no gradient; the weights have one, as in the authors' own code.
    """
    negatives = _Negatives(excluded, OwnPositives.of(len(queries), len(documents)))
    limits = _limits(
        queries, documents, score, temperature, negatives, positive_scores.detach(), hardness
    )
    plain = log_partition(queries, documents, score, temperature, negatives, limits)
    log_z = plain.queries
    if hardness.beta > 0:
        # sum of w_j e^s_j with w_j = e^(b s_j) / mean of e^(b s): in logarithms a difference of two
        # partitions, and the number of negatives
        def scaled(factor: float) -> Float[Tensor, " all_queries"]:
            scaled_limits = None if limits is None else limits.times(factor)
            return log_partition(
                queries, documents, score, temperature / factor, negatives, scaled_limits
            ).queries

        number = all_rows(len(documents)) - sum_over_ranks(plain.excluded.clone())
        log_number = number.to(log_z).log().clamp_min(_LOG_OF_NONE)
        log_z = scaled(1 + hardness.beta) - scaled(hardness.beta) + log_number
    (pairs,) = all_reduce_integers([int(plain.excluded.sum())], SUM)
    return HardLogPartition(torch.logaddexp(positive_scores, log_z), pairs - len(positive_scores))


@torch.no_grad()
def _limits(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    negatives: ExcludedPairs,
    positive_scores: Float[Tensor, " all_queries"],
    hardness: Hardness,
) -> ScoreLimits | None:
    """Scores between which a negative counts: below the positive's, and among the `top_k`."""
    below = positive_scores if hardness.semi_hard else None
    if hardness.top_k is None:
        return None if below is None else ScoreLimits(None, below)
    all_queries = gather_queries(queries.detach(), temperature)
    own_documents = exact(documents.detach())
    best = all_queries.new_full((len(all_queries), hardness.top_k), -torch.inf)
    for rows, columns in tiles(all_queries, own_documents, 0):
        scores = score(all_queries[rows], own_documents[columns])
        if (pairs := negatives.in_tile(rows, columns)) is not None:
            scores[pairs[0].to(scores.device), pairs[1].to(scores.device)] = -torch.inf
        if below is not None:
            scores[scores >= below[rows, None]] = -torch.inf
        best[rows] = torch.cat([best[rows], scores], 1).topk(hardness.top_k).values
    best_of_ranks = gather(best[None]).transpose(0, 1).flatten(1)
    lowest = best_of_ranks.topk(hardness.top_k).values[:, -1]
    return ScoreLimits(lowest - _ROUNDING * lowest.abs().nan_to_num(posinf=0.0), below)
