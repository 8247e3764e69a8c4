"""Fusion of several rankings into one: by ranks, or by weighted scores."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from trainer.evaluation.metrics import Qrels, RetrievalRun, per_query_metrics, rank_documents

_RANK_CONSTANT = 60
_WEIGHT_STEPS = 10
"""Weights are multiples of 1 / _WEIGHT_STEPS."""
_METRIC = "ndcg@10"


def fuse_ranks(runs: Sequence[RetrievalRun], k: int) -> RetrievalRun:
    """Returns the k best documents per query by reciprocal rank fusion (Cormack, Clarke & Büttcher
    2009).

    The score of a document is the sum of 1 / (60 + rank) over the runs that have it.

    >>> fused = fuse_ranks([{"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 9.0}}], 2)
    >>> {document: round(score, 4) for document, score in fused["q"].items()}
    {'b': 0.0325, 'a': 0.0164}
    """
    return _fuse(runs, [1.0] * len(runs), _reciprocal_ranks, k)


def fuse_scores(runs: Sequence[RetrievalRun], weights: Sequence[float], k: int) -> RetrievalRun:
    """Returns the k best documents per query by a weighted sum of scores (Bruch, Gai & Ingber
    2023).

    The scores of a run and query are first moved and scaled to 0 for the lowest and 1 for the
    highest; equal scores all become 1. A document that a run does not have gets 0.

    >>> fuse_scores([{"q": {"a": 30.0, "b": 10.0}}, {"q": {"b": 0.5}}], [0.25, 0.75], 2)
    {'q': {'b': 0.75, 'a': 0.25}}
    """
    return _fuse(runs, weights, _scaled_scores, k)


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


def _fuse(runs, weights, points, k):  # type: ignore[no-untyped-def]
    fused_run: RetrievalRun = {}
    for query in dict.fromkeys(itertools.chain(*runs)):
        scores: dict[str, float] = {}
        for run, weight in zip(runs, weights, strict=True):
            for document, value in points(run.get(query, {})).items():
                scores[document] = scores.get(document, 0.0) + weight * value
        fused_run[query] = dict(rank_documents(scores)[:k])
    return fused_run


def _reciprocal_ranks(hits: Mapping[str, float]) -> dict[str, float]:
    ranked_hits = enumerate(rank_documents(hits), 1)
    return {document: 1.0 / (_RANK_CONSTANT + rank) for rank, (document, _) in ranked_hits}


def _scaled_scores(hits: Mapping[str, float]) -> dict[str, float]:
    lowest, highest = min(hits.values(), default=0.0), max(hits.values(), default=0.0)
    if lowest == highest:
        return dict.fromkeys(hits, 1.0)
    return {document: (score - lowest) / (highest - lowest) for document, score in hits.items()}
