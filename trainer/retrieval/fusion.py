"""Fusion of several rankings into one: by ranks, or by weighted scores."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.errors import BadData

FUSED_DOCUMENTS = 101
"""The number of documents of each ranking that are combined, however many are asked for: others
would change the scores.
"""
_RANK_CONSTANT = 60
_Run = dict[str, dict[str, float]]
"""Query id to document id to score."""


def fuse_ranks(runs: Sequence[_Run], k: int) -> _Run:
    """Returns the k best documents per query by reciprocal rank fusion (Cormack, Clarke & Büttcher
    2009).

    The score of a document is the sum of 1 / (60 + rank) over the runs that have it.

    >>> fused = fuse_ranks([{"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 9.0}}], 2)
    >>> {document: round(score, 4) for document, score in fused["q"].items()}
    {'b': 0.0325, 'a': 0.0164}
    """
    return _fuse(runs, [1.0] * len(runs), _reciprocal_ranks, k)


def fuse_scores(runs: Sequence[_Run], weights: Sequence[float], k: int) -> _Run:
    """Returns the k best documents per query by a weighted sum of scores (Bruch, Gai & Ingber
    2023).

    The scores of a run and query are first moved and scaled to 0 for the lowest and 1 for the
    highest; equal scores all become 1. A document that a run does not have gets 0. If a run has
    fewer than 100, the others share no word with the query: then 0 is among the scores that are
    scaled, or its last document would count as little as one that it does not have. A run of
    weight 0 is left out.

    >>> fuse_scores([{"q": {"a": 30.0, "b": 15.0}}, {"q": {"b": 0.5}}], [0.5, 0.5], 2)
    {'q': {'b': 0.75, 'a': 0.5}}
    """
    weighted_runs = [run for run, weight in zip(runs, weights, strict=True) if weight]
    return _fuse(weighted_runs, [weight for weight in weights if weight], _scaled_scores, k)


def rank_documents(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Documents and their scores in trec_eval's order, the best first.

    >>> rank_documents({"a": 1.0, "c": 2.0, "b": 1.0 + 1e-12})
    [('c', 2.0), ('b', 1.0), ('a', 1.0)]
    """
    values = np.fromiter(scores.values(), np.float32, len(scores))
    if np.isnan(values).any():
        raise BadData(
            "a retrieved document has the score NaN, which cannot be ranked; look for weights that"
            " are not finite in the model"
        )
    pairs = sorted(zip(values.tolist(), scores, strict=True), reverse=True)
    return [(document, score) for score, document in pairs]


def _fuse(runs, weights, points, k):  # type: ignore[no-untyped-def]
    fused_run: _Run = {}
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
    if len(hits) < FUSED_DOCUMENTS - 1:  # one may be left out: the query itself
        lowest = min(lowest, 0.0)
    if lowest == highest:
        return dict.fromkeys(hits, 1.0)
    return {document: (score - lowest) / (highest - lowest) for document, score in hits.items()}
