"""Scorers of pairs: an embedding model, a cross-encoder, or any other function of texts."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, Int64

from trainer.errors import BadModel
from trainer.mining.spaces import QUERIES_PER_SHARD
from trainer.mining.task import Task
from trainer.models.encoder import PairEncoder
from trainer.retrieval.rerank import score_pairs
from trainer.strategies.devices import Precision

PairScorer = Callable[
    [int, Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]], Float32[np.ndarray, " pair"]
]
"""(shard, queries, documents) to the score of each pair, as `Space.pair_scores`.

Queries are numbered within the shard and ascend.
"""
TextScorer = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[Sequence[float]]]
"""(queries, the documents of each) to the score of each document with its query."""


def pair_scorer(score: TextScorer, task: Task) -> PairScorer:
    """Returns a scorer of numbered pairs from a scorer of texts.

    Each rank calls it for its own shard, so `score` must not wait for other ranks.
    """

    def scorer(
        shard: int, queries: Int64[np.ndarray, " pair"], documents: Int64[np.ndarray, " pair"]
    ) -> Float32[np.ndarray, " pair"]:
        if not len(queries):
            return np.empty(0, np.float32)
        query_numbers, counts = np.unique(queries, return_counts=True)
        ends = np.cumsum(counts).tolist()
        texts = task.documents.at(documents)
        lists = [texts[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
        scores = score(task.queries.at(shard * QUERIES_PER_SHARD + query_numbers), lists)
        return np.concatenate([np.asarray(query_scores, np.float32) for query_scores in scores])

    return scorer


def by_pair_encoder(encoder: PairEncoder, precision: Precision) -> TextScorer:
    """Returns a scorer that uses a cross-encoder. Each rank scores its own pairs."""

    def score(
        queries: Sequence[str], documents: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[float]]:
        pairs = [
            (query, document)
            for query, query_documents in zip(queries, documents, strict=True)
            for document in query_documents
        ]
        ends = np.cumsum([len(query_documents) for query_documents in documents])
        return [
            query_scores.tolist()
            for query_scores in np.split(
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
    """Raises BadModel, which quotes the first query with a score that is not finite."""
    wrong = np.flatnonzero(~np.isfinite(scores))
    if wrong.size:
        (query,) = task.queries.at(shard * QUERIES_PER_SHARD + queries[wrong[:1]])
        raise BadModel(
            f"{who} gives {wrong.size} of {len(scores)} pairs a score that is not finite, first for"
            f" the query {query[:80]!r}; its weights are damaged or overflow: try --precision"
            " fp32, or another teacher"
        )
