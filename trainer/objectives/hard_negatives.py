"""Which in-batch negatives count, by how hard they are: the nearest few of each query, those below
its positive, or all by weight.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.collectives import gather, rank
from trainer.log_partition import Excluded, LogPartition, log_partition, tiles
from trainer.scores import Score, dot, exact

_ROUNDING = 1e-6
"""The last negative that counts must reach its own limit, however its score is rounded."""


@dataclass(frozen=True, slots=True)
class Hardness:
    """What makes a negative count; the hardest are taken over the documents of all ranks."""

    top_k: int | None = None
    """So many hardest negatives of each query; None: all."""
    semi_hard: bool = False
    """Only those that score below the query's positive (Schroff et al. 2015, section 3.2)."""
    beta: float = 0.0
    """Weight exp(beta * score / temperature) of each, over the mean weight (Robinson et al. 2021,
    equation 4); 0: all alike.
    """


def hard_partition(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    excluded: Excluded,
    positive: Float[Tensor, " all_queries"],
    hardness: Hardness,
) -> LogPartition:
    """As `log_partition`, of the positive and the negatives that count: log(exp(positive) + sum of
    w exp(score / temperature)).

    `positive` is the score of each query of all ranks with its positive, over the temperature.
    `LogPartition.excluded` is how many pairs of a query and a negative do not count. A query with
    no negative left has a partition of `positive`, and so no loss. Which negatives count has no
    gradient; the weights have one, as in the authors' own code.
    """
    negatives = _negatives(excluded, len(queries), len(documents))
    if hardness.top_k is not None or hardness.semi_hard:
        negatives = _limited(
            queries, documents, score, temperature, negatives, positive.detach(), hardness
        )
    found = log_partition(queries, documents, score, temperature, negatives)
    of_negatives = found.of_queries
    if hardness.beta > 0:
        # sum of w_j e^s_j with w_j = e^(b s_j) / mean of e^(b s): in logarithms a difference of two
        # partitions, and the number of negatives
        of_weighted = log_partition(
            queries, documents, score, temperature / (1 + hardness.beta), negatives
        ).of_queries
        of_weights = log_partition(
            queries, documents, score, temperature / hardness.beta, negatives
        ).of_queries
        number = log_partition(
            queries.new_zeros(len(queries), 1),
            documents.new_zeros(len(documents), 1),
            dot,
            1.0,
            negatives,
        ).of_queries
        of_negatives = of_weighted - of_weights + number
    return LogPartition(
        torch.logaddexp(positive, of_negatives), None, found.excluded - len(positive)
    )


def _negatives(excluded: Excluded, queries: int, documents: int) -> Excluded:
    """`excluded`, and each query's own positive too."""
    each = documents // queries
    first_document = rank() * documents

    def positives_too(some_queries: slice, some_documents: slice) -> Bool[Tensor, "query document"]:
        own = torch.arange(some_queries.start, some_queries.stop) * each - first_document
        mask = own[:, None] == torch.arange(some_documents.start, some_documents.stop)
        others = excluded(some_queries, some_documents)
        return mask if others is None else mask | others

    return positives_too


@torch.no_grad()
def _limited(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    negatives: Excluded,
    positive: Float[Tensor, " all_queries"],
    hardness: Hardness,
) -> Excluded:
    """`negatives` between two limits of each query: below its positive, and among its `top_k`."""
    everyone, here = (
        gather(exact(queries.detach()) / temperature, padding=0.0 if queries.ndim > 2 else None),
        exact(documents.detach()),
    )

    def below_positive(
        some_queries: slice, some_documents: slice
    ) -> tuple[Float[Tensor, "query document"], Bool[Tensor, "query document"]]:
        with torch.no_grad():
            scores = score(everyone[some_queries], here[some_documents])
        out = negatives(some_queries, some_documents)
        assert out is not None
        out = out.to(scores.device)
        return scores, out | (scores >= positive[some_queries, None]) if hardness.semi_hard else out

    if hardness.top_k is None:
        return lambda some_queries, some_documents: below_positive(some_queries, some_documents)[1]
    best = everyone.new_full((len(everyone), hardness.top_k), -torch.inf)
    for some_queries, some_documents in tiles(everyone, here, 0):
        scores, out = below_positive(some_queries, some_documents)
        best[some_queries] = (
            torch.cat([best[some_queries], scores.masked_fill(out, -torch.inf)], 1)
            .topk(hardness.top_k)
            .values
        )
    limit = gather(best[None]).transpose(0, 1).flatten(1).topk(hardness.top_k).values[:, -1:]
    limit = limit - _ROUNDING * limit.abs().nan_to_num(posinf=0.0)

    def among_the_hardest(
        some_queries: slice, some_documents: slice
    ) -> Bool[Tensor, "query document"]:
        scores, out = below_positive(some_queries, some_documents)
        return out | (scores < limit[some_queries])

    return among_the_hardest
