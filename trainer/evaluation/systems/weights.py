"""Weights of a fusion of scores, chosen on judged queries."""

import itertools
from collections.abc import Iterator, Sequence

from trainer.evaluation.metrics import Qrels, RetrievalRun, per_query_metrics
from trainer.retrieval.fusion import fuse_scores

_WEIGHT_STEPS = 10
"""Weights are multiples of 1 / _WEIGHT_STEPS."""
_METRIC = "ndcg@10"


def choose_weights(runs: Sequence[RetrievalRun], qrels: Qrels) -> tuple[tuple[float, ...], float]:
    """Returns the weights with the best mean nDCG@10 on these judgements, and that mean.

    Weights are multiples of 0.1 with the sum 1. Of equally good ones, the most even are chosen.
    """

    def quality(weights: Sequence[float]) -> float:
        run = fuse_scores(runs, weights, 100)
        return float(per_query_metrics(run, qrels, [_METRIC])[_METRIC].mean())

    def unevenness(weights: Sequence[float]) -> float:
        return round(sum(weight**2 for weight in weights), 6)

    means = {weights: quality(weights) for weights in weight_grid(len(runs))}
    best = max(means, key=lambda weights: (round(means[weights], 9), -unevenness(weights)))
    return best, means[best]


def weight_grid(parts: int) -> Iterator[tuple[float, ...]]:
    """Yields all weights of so many parts whose sum is 1.

    >>> len(list(weight_grid(2))), len(list(weight_grid(3)))
    (11, 66)
    """
    for counts in itertools.product(range(_WEIGHT_STEPS + 1), repeat=parts):
        if sum(counts) == _WEIGHT_STEPS:
            yield tuple(count / _WEIGHT_STEPS for count in counts)
