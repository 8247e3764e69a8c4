"""Measurement of systems on a set of judged queries."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData
from trainer.evaluation.metrics import METRICS, RetrievalRun, per_query_metrics
from trainer.evaluation.results import SystemResult
from trainer.models.encoder import PairEncoder, VectorEncoder
from trainer.retrieval.bm25 import bm25_run
from trainer.retrieval.encoding.encode import encode_documents, encode_queries
from trainer.retrieval.fusion import rank_documents
from trainer.retrieval.rerank import rerank
from trainer.strategies.devices import Precision
from trainer.vectors.vectors import Vectors, nearest_documents

CANDIDATES = 20
"""The default number of BM25's documents that a cross-encoder re-ranks in validation and tests."""

FirstStage = Callable[[RetrievalSet], RetrievalRun]
"""Finds the documents per query that a cross-encoder re-ranks."""

_TOP = 10


def evaluate(
    encoder: VectorEncoder,
    judged_set: RetrievalSet,
    k: int = 100,
    name: str = "model",
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
    metrics: Sequence[str] = METRICS,
) -> SystemResult:
    """Measures an encoder by exact search of all documents; the first k per query count."""
    run, queries, documents = search_set(encoder, judged_set, k + 1, precision, micro_batch_tokens)
    figures = queries.figures("query") | documents.figures("document")
    result = evaluate_run(run, judged_set, name, k, metrics)
    return replace(result, figures=figures, note=note_of(figures))


def evaluate_reranking(
    encoder: PairEncoder,
    judged_set: RetrievalSet,
    first_stage: FirstStage | None = None,
    k: int = 100,
    name: str = "model",
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
    metrics: Sequence[str] = METRICS,
) -> SystemResult:
    """Measures a cross-encoder, which re-ranks the documents of a first search.

    Without `first_stage`, these are the first CANDIDATES documents by BM25.
    """
    run = first_stage(judged_set) if first_stage is not None else bm25_run(judged_set, CANDIDATES)
    depth = max(map(len, run.values()), default=0)
    run = rerank_run(encoder, run, judged_set, depth, precision, micro_batch_tokens)
    return evaluate_run(run, judged_set, name, k, metrics)


def retrieve(
    encoder: VectorEncoder,
    judged_set: RetrievalSet,
    k: int,
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
) -> RetrievalRun:
    """Returns the k best documents per query, by exact search."""
    return search_set(encoder, judged_set, k, precision, micro_batch_tokens)[0]


def search_set(
    encoder: VectorEncoder,
    judged_set: RetrievalSet,
    k: int,
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
) -> tuple[RetrievalRun, Vectors, Vectors]:
    """Returns what `retrieve` returns, and the vectors of queries and documents."""
    documents = encode_documents(encoder, judged_set.documents, micro_batch_tokens, precision)
    queries = encode_queries(encoder, judged_set.queries, micro_batch_tokens, precision)
    run = nearest_run(queries, documents, judged_set.query_ids, judged_set.document_ids, k, encoder)
    return run, queries, documents


def nearest_run(
    queries: Vectors,
    documents: Vectors,
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    k: int,
    encoder: VectorEncoder,
) -> RetrievalRun:
    """Returns the k nearest documents per query, searched on the device of their encoder."""
    scores, rows = nearest_documents(queries, documents, k, encoder.device)
    return {
        query: {
            document_ids[row]: score
            for row, score in zip(query_rows, query_scores, strict=True)
            if score > -math.inf
        }
        for query, query_rows, query_scores in zip(
            query_ids, rows.tolist(), scores.tolist(), strict=True
        )
    }


def note_of(figures: Mapping[str, float]) -> str:
    """Returns figures of vectors as a note.

    >>> note_of({"active_terms_per_query": 12.34})
    '12.3 active terms per query'
    """
    return ", ".join(f"{value:,.1f} {name.replace('_', ' ')}" for name, value in figures.items())


def rerank_run(
    encoder: PairEncoder,
    run: RetrievalRun,
    judged_set: RetrievalSet,
    depth: int,
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
) -> RetrievalRun:
    """Returns a run in which a cross-encoder has re-ranked the first `depth` documents per query.

    Raises BadData when no query has a candidate.
    """
    queries = judged_set.queries_by_id
    documents = judged_set.documents_by_id
    return rerank(encoder, run, queries, documents, depth, micro_batch_tokens, precision)


def evaluate_bm25(
    judged_set: RetrievalSet, k: int = 100, name: str = "BM25", metrics: Sequence[str] = METRICS
) -> SystemResult:
    """Measures search by BM25 on the set."""
    return evaluate_run(bm25_run(judged_set, k + 1), judged_set, name, k, metrics)


def evaluate_run(
    run: RetrievalRun,
    judged_set: RetrievalSet,
    name: str,
    k: int = 100,
    metrics: Sequence[str] = METRICS,
) -> SystemResult:
    """Measures a run on the queries of `judged_set` that have judgements.

    The documents that count are those of `measured_run`. Raises BadData when no query has a
    judgement.
    """
    cut = measured_run(run, judged_set, k)
    qrels = {query: judged_set.qrels[query] for query in cut}
    top = {query: list(hits.items())[:_TOP] for query, hits in cut.items()}
    return SystemResult(name, tuple(qrels), per_query_metrics(cut, qrels, metrics), top)


def measured_run(run: RetrievalRun, judged_set: RetrievalSet, k: int = 100) -> RetrievalRun:
    """Returns the k best documents of each query that has judgements, best first.

    As in BEIR, a document with the same id as the query is left out: it may be the query itself. If
    the judgements contain that id, the ids are equal by chance, and the document counts. Raises
    BadData when no query has a judgement.
    """
    qrels = {
        query: judged_set.qrels[query]
        for query in judged_set.query_ids
        if judged_set.qrels.get(query)
    }
    if not qrels:
        raise BadData(
            f"{judged_set.name}: none of its {len(judged_set.query_ids)} queries has a judged"
            " document, so nothing can be measured; check that the query ids of the qrels are those"
            " of the queries"
        )
    cut: RetrievalRun = {}
    for query, judgements in qrels.items():
        hits = run.get(query, {})
        cut[query] = dict(
            rank_documents(
                {d: score for d, score in hits.items() if d != query or d in judgements}
            )[:k]
        )
    return cut
