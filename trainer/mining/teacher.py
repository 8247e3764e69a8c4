"""Who scores pairs: the miner itself, another bi-encoder or late-interaction model, or any function
of texts, as a cross-encoder is.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, Int64

from trainer.errors import BadModel
from trainer.mining.spaces import QUERIES_A_SHARD
from trainer.mining.task import Task
from trainer.models.encoder import PairEncoder
from trainer.retrieval.rerank import score_pairs
from trainer.strategies.devices import Precision

PairScorer = Callable[
    [int, Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]], Float32[np.ndarray, " pair"]
]
"""(shard, queries counted from its first, in ascending order, documents) to the score of each pair:
`Space.pair_scores` is one.
"""
TextScorer = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[Sequence[float]]]
"""(queries, the documents of each) to the score of each document with its query."""


def of_texts(score: TextScorer, task: Task) -> PairScorer:
    """A scorer of pairs from one of texts. It is called by one rank alone, of several that each
    have a shard, so it may not wait for others.
    """

    def scorer(
        shard: int, queries: Int64[np.ndarray, " pair"], documents: Int64[np.ndarray, " pair"]
    ) -> Float32[np.ndarray, " pair"]:
        if not len(queries):
            return np.empty(0, np.float32)
        asked, counts = np.unique(queries, return_counts=True)
        ends = np.cumsum(counts).tolist()
        texts = task.documents.at(documents)
        lists = [texts[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
        scores = score(task.queries.at(shard * QUERIES_A_SHARD + asked), lists)
        return np.concatenate([np.asarray(some, np.float32) for some in scores])

    return scorer


def by_pair_encoder(encoder: PairEncoder, precision: Precision) -> TextScorer:
    """The scores of a model that reads pairs, each rank's own."""

    def score(
        queries: Sequence[str], documents: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[float]]:
        pairs = [
            (query, document)
            for query, of_query in zip(queries, documents, strict=True)
            for document in of_query
        ]
        ends = np.cumsum([len(of_query) for of_query in documents])
        return [
            some.tolist()
            for some in np.split(
                score_pairs(encoder, pairs, precision=precision, one_rank=True), ends[:-1]
            )
        ]

    return score


def check_scores(
    scores: Float32[np.ndarray, " pair"],
    who: str,
    queries: Int64[np.ndarray, " pair"],
    shard: int,
    task: Task,
) -> None:
    """Raises BadModel naming the first query with a score that is not finite."""
    wrong = np.flatnonzero(~np.isfinite(scores))
    if wrong.size:
        (query,) = task.queries.at(shard * QUERIES_A_SHARD + queries[wrong[:1]])
        raise BadModel(
            f"{who} gives {wrong.size} of {len(scores)} pairs a score that is not finite, the first"
            f" for the query {query[:80]!r}; its weights are damaged or overflow: try --precision"
            " fp32, or another teacher"
        )
