"""The choice of in-batch negatives by hardness: the hardest of each query, those that score below
its positive, or all of them with weights.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.batch import to_device
from trainer.collectives import all_rows, gather, sum_over_ranks
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
"""Relative tolerance, so that the last negative that counts reaches its own limit despite rounding
of its score.
"""
_LOG_OF_ZERO = -1e30


@dataclass(frozen=True, slots=True)
class Hardness:
    """Which negatives count. The hardest are chosen from the documents of all ranks."""

    top_k: int | None = None
    """Number of hardest negatives per query; None: all."""
    semi_hard: bool = False
    """Whether only negatives that score below the query's positive count (Schroff et al. 2015,
    section 3.2).
    """
    beta: float = 0.0
    """Each negative has the weight exp(beta * score / temperature), divided by the mean weight
    (Robinson et al. 2021, equation 4); 0: equal weights.
    """


class HardLogPartition(NamedTuple):
    """The partition over the positive and the negatives that count."""

    log_z: Float[Tensor, " all_queries"]
    own_excluded_count: Int[Tensor, ""]
    """Number of pairs of a query and a negative of this rank that do not count."""
    all_queries: Float[Tensor, "all_queries ..."]
    """The queries of all ranks, divided by the temperature, without gradient."""


@dataclass(frozen=True)
class _NonNegatives:
    """The excluded pairs and each query's own positive. The two never overlap."""

    excluded_pairs: ExcludedPairs
    positives: OwnPositives

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        positive_pairs = self.positives.in_tile(queries, documents)
        pairs = self.excluded_pairs.in_tile(queries, documents)
        if positive_pairs is None or pairs is None:
            return positive_pairs or pairs
        rows, columns = (torch.cat(side) for side in zip(positive_pairs, pairs, strict=True))
        return rows, columns


def hard_log_partition(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    excluded_pairs: ExcludedPairs,
    positive_scores: Float[Tensor, " all_queries"],
    hardness: Hardness,
) -> HardLogPartition:
    """Returns log(exp(positive) + sum over the negatives that count of w exp(score / temperature)).

    `positive_scores` are the scores of each query of all ranks with its positive, divided by the
    temperature. If no negative of a query counts, its partition is the positive score, and its loss
    is zero. The choice of negatives has no gradient. The weights have one, as in the authors' code.
    """
    non_negatives = _NonNegatives(excluded_pairs, OwnPositives.of(len(queries), len(documents)))
    limits = _limits(
        queries, documents, score, temperature, non_negatives, positive_scores.detach(), hardness
    )
    plain = log_partition(queries, documents, score, temperature, non_negatives, limits)
    log_z = plain.queries
    if hardness.beta > 0:
        # With w_j = e^(b s_j) / mean of e^(b s), the logarithm of the sum of w_j e^s_j is the
        # difference of two partitions plus the logarithm of the number of negatives.
        def scaled_log_z(factor: float) -> Float[Tensor, " all_queries"]:
            scaled_limits = None if limits is None else limits.times(factor)
            return log_partition(
                queries, documents, score, temperature / factor, non_negatives, scaled_limits
            ).queries

        number = all_rows(len(documents)) - sum_over_ranks(plain.excluded_counts.clone())
        log_number = number.to(log_z).log().clamp_min(_LOG_OF_ZERO)
        log_z = scaled_log_z(1 + hardness.beta) - scaled_log_z(hardness.beta) + log_number
    # The positives of all queries are among the excluded pairs, each on one rank.
    own_excluded_count = plain.excluded_counts.sum() - len(queries)
    log_z = torch.logaddexp(positive_scores, log_z)
    return HardLogPartition(log_z, own_excluded_count, plain.all_queries)


@torch.no_grad()
def _limits(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    non_negatives: ExcludedPairs,
    positive_scores: Float[Tensor, " all_queries"],
    hardness: Hardness,
) -> ScoreLimits | None:
    """Returns the range of scores in which a negative counts.

    With `semi_hard` it ends below the positive's score. With `top_k` it begins at the lowest score
    of the hardest negatives.
    """
    upper = positive_scores if hardness.semi_hard else None
    if hardness.top_k is None:
        return None if upper is None else ScoreLimits(None, upper)
    all_queries = gather_queries(queries.detach(), temperature)
    own_documents = exact(documents.detach())
    best = all_queries.new_full((len(all_queries), hardness.top_k), -torch.inf)
    for rows, columns in tiles(all_queries, own_documents, 0):
        scores = score(all_queries[rows], own_documents[columns])
        if (pairs := non_negatives.in_tile(rows, columns)) is not None:
            excluded_rows, excluded_columns = to_device(torch.stack(pairs), scores.device)
            scores[excluded_rows, excluded_columns] = -torch.inf
        if upper is not None:
            scores.masked_fill_(scores >= upper[rows, None], -torch.inf)
        best[rows] = torch.cat([best[rows], scores], 1).topk(hardness.top_k).values
    best_of_ranks = gather(best[None]).transpose(0, 1).flatten(1)
    lowest = best_of_ranks.topk(hardness.top_k).values[:, -1]
    return ScoreLimits(lowest - _ROUNDING * lowest.abs().nan_to_num(posinf=0.0), upper)
