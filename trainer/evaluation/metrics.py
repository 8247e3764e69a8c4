"""Ranking metrics per query, equal to those of trec_eval (and `pytrec_eval`), ties included.

trec_eval stores scores in single precision and ranks documents with equal scores in descending
order of their ids, byte by byte. A document without a judgement, or with a judgement of 0 or less,
is not relevant and has no gain.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from trainer.retrieval.fusion import rank_documents

RetrievalRun = dict[str, dict[str, float]]
"""Query id to document id to score: the results of a search, in any order."""

Qrels = Mapping[str, Mapping[str, int]]
"""Query id to document id to relevance: the judgements."""

METRICS = ("ndcg@10", "mrr@10", "map", "recall@10", "recall@100")
"""The default metrics."""

_NAMES = ("ndcg", "mrr", "map", "recall", "precision")
_BLOCK_QUERIES = 4096


def per_query_metrics(
    run: RetrievalRun, qrels: Qrels, metrics: Sequence[str] = METRICS
) -> dict[str, Float64[np.ndarray, " query"]]:
    """Metric to its value for each query, in the order of `qrels`.

    A query that is missing in the run, or has no relevant documents, has the value 0. Metrics are
    `ndcg`, `mrr`, `map`, `recall` and `precision`, over all retrieved documents or, with `@k`, over
    the first k:

    - nDCG@k = DCG@k / DCG@k of the best order, DCG@k = sum of relevance(rank) / log2(rank + 1)
      (Järvelin & Kekäläinen 2002)
    - MRR@k = 1 / rank of the first relevant document, 0 if there is none in the first k
    - MAP = mean over the relevant documents of the precision at their rank, 0 for those not
      retrieved
    - recall@k = share of the relevant documents in the first k; precision@k = share of the first k
      documents that is relevant

    >>> run = {"q": {"a": 0.9, "b": 0.5, "c": 0.1}}
    >>> values = per_query_metrics(
    ...     run, {"q": {"b": 1, "d": 1}}, ["mrr@10", "map", "recall@10", "precision@2"]
    ... )
    >>> {name: value.tolist() for name, value in values.items()}
    {'mrr@10': [0.5], 'map': [0.25], 'recall@10': [0.5], 'precision@2': [0.5]}

    Raises ValueError for an unknown metric and BadData for a score that is not a number.
    """
    names_and_cuts = {metric: _parse(metric) for metric in metrics}
    parts: dict[str, list[np.ndarray]] = {metric: [np.zeros(0)] for metric in metrics}
    for has_relevant, gains, ideal_gains in _blocks(run, qrels):
        relevant_count = (ideal_gains > 0).sum(1)
        for metric, (name, k) in names_and_cuts.items():
            values = _VALUES[name](gains[:, :k], ideal_gains[:, :k], relevant_count, k)
            parts[metric].append(np.where(has_relevant, values, 0.0))
    return {metric: np.concatenate(part) for metric, part in parts.items()}


def _parse(metric: str) -> tuple[str, int | None]:
    name, at, cut = metric.partition("@")
    if (
        name not in _NAMES
        or bool(at) != cut.isdecimal()
        or (at and int(cut) < 1)
        or (name == "precision" and not at)
    ):
        raise ValueError(
            f"unknown metric {metric!r}; choose ndcg, mrr, map or recall, alone or with @k, or"
            " precision@k"
        )
    return name, int(cut) if at else None


def _blocks(
    run: RetrievalRun, qrels: Qrels
) -> Iterator[
    tuple[
        Bool[np.ndarray, " query"], Int64[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]
    ]
]:
    """Per block of queries: which have relevant documents, and the relevance by rank, as retrieved
    and in the best order.
    """
    items = list(qrels.items())
    for start in range(0, len(items), _BLOCK_QUERIES):
        block = items[start : start + _BLOCK_QUERIES]
        gains = _pad(
            [
                [judgements.get(document, 0) for document, _ in rank_documents(run.get(query, {}))]
                for query, judgements in block
            ]
        )
        ideal_gains = _pad([sorted(judgements.values(), reverse=True) for _, judgements in block])
        yield np.any(ideal_gains > 0, axis=1), gains, ideal_gains


def _pad(rows: list[list[int]]) -> Int64[np.ndarray, "row rank"]:
    """Ragged rows as one matrix, padded with 0; a relevance below 0 becomes 0."""
    matrix = np.zeros((len(rows), max(map(len, rows), default=0) or 1), dtype=np.int64)
    for row, values in enumerate(rows):
        matrix[row, : len(values)] = values
    return matrix.clip(min=0)


def _dcg(gains: Int64[np.ndarray, "query rank"]) -> Float64[np.ndarray, " query"]:
    return gains @ (1.0 / np.log2(np.arange(gains.shape[1]) + 2.0))


def _ndcg(gains, ideal_gains, relevant_count, k):  # type: ignore[no-untyped-def]
    return _dcg(gains) / np.maximum(_dcg(ideal_gains), 1e-300)


def _mrr(gains, ideal_gains, relevant_count, k):  # type: ignore[no-untyped-def]
    hits = gains > 0
    return np.where(hits.any(1), 1.0 / (hits.argmax(1) + 1.0), 0.0)


def _map(gains, ideal_gains, relevant_count, k):  # type: ignore[no-untyped-def]
    hits = gains > 0
    precision = hits.cumsum(1) / np.arange(1.0, hits.shape[1] + 1)
    return (precision * hits).sum(1) / np.maximum(relevant_count, 1)


def _recall(gains, ideal_gains, relevant_count, k):  # type: ignore[no-untyped-def]
    return (gains > 0).sum(1) / np.maximum(relevant_count, 1)


def _precision(gains, ideal_gains, relevant_count, k):  # type: ignore[no-untyped-def]
    return (gains > 0).sum(1) / k


_VALUES = {"ndcg": _ndcg, "mrr": _mrr, "map": _map, "recall": _recall, "precision": _precision}
