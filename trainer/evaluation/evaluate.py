"""Measures systems on a set of judged queries."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64

from trainer.errors import BadData
from trainer.evaluation.metrics import METRICS, RetrievalRun, per_query_metrics, rank_documents
from trainer.evaluation.results import SystemResult
from trainer.models.cross_encoder import CrossEncoder
from trainer.models.dense import DenseEncoder
from trainer.models.late_interaction import LateInteractionEncoder
from trainer.retrieval.bm25 import bm25_run
from trainer.retrieval.indexes.search import top_k
from trainer.retrieval.rerank import rerank
from trainer.retrieval.token_index.search import top_k_maxsim
from trainer.retrieval.vectors.encode import encode_for_search
from trainer.retrieval.vectors.token_vectors import encode_queries, encode_tokens
from trainer.strategies.devices import Precision

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet
    from trainer.models.encoder import Encoder

CANDIDATES = 20
"""How many of BM25's documents a cross-encoder orders while it is trained and measured by itself,
where nothing else is said.
"""

Candidates = Callable[["RetrievalSet"], RetrievalRun]
"""What finds the documents of each query that a cross-encoder puts in order."""

_TOP = 10


def evaluate(
    encoder: "Encoder",
    set: "RetrievalSet",
    k: int = 100,
    name: str = "model",
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
    metrics: Sequence[str] = METRICS,
    candidates: Candidates | None = None,
) -> SystemResult:
    """How well the encoder finds the right documents: every query against every document, exactly,
    the first k counted.

    A cross-encoder cannot look at every document: of it, how well it orders `candidates`, else the
    first CANDIDATES that BM25 finds.
    """
    if isinstance(encoder, CrossEncoder):
        found = candidates(set) if candidates is not None else bm25_run(set, CANDIDATES)
        run = rerank_run(
            encoder,
            found,
            set,
            max(map(len, found.values()), default=0),
            precision,
            micro_batch_tokens,
        )
    else:
        run = retrieve(encoder, set, k + 1, precision, micro_batch_tokens)
    return evaluate_run(run, set, name, k, metrics)


def retrieve(
    encoder: "Encoder",
    set: "RetrievalSet",
    k: int,
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
) -> RetrievalRun:
    """The k best documents of each query among all, by exact search."""
    scores, rows = _nearest(encoder, set, k, precision, micro_batch_tokens)
    return {
        query: {
            set.document_ids[row]: score
            for row, score in zip(of_query.tolist(), values.tolist(), strict=True)
            if score > -math.inf
        }
        for query, of_query, values in zip(set.query_ids, rows, scores, strict=True)
    }


def rerank_run(
    encoder: CrossEncoder,
    run: RetrievalRun,
    set: "RetrievalSet",
    depth: int,
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
) -> RetrievalRun:
    """A run with each query's first `depth` documents in the cross-encoder's order. BadData when no
    query has a candidate.
    """
    queries = dict(zip(set.query_ids, set.queries, strict=True))
    documents = dict(zip(set.document_ids, set.documents, strict=True))
    return rerank(encoder, run, queries, documents, depth, micro_batch_tokens, precision)


def _nearest(
    encoder: "Encoder",
    set: "RetrievalSet",
    k: int,
    precision: Precision,
    micro_batch_tokens: int | None,
) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
    """Scores and rows of each query's k best documents, by the family's own similarity."""
    match encoder:
        case DenseEncoder():
            documents = encode_for_search(
                encoder, set.documents, "document", micro_batch_tokens, precision
            )
            queries = encode_for_search(
                encoder, set.queries, "query", micro_batch_tokens, precision
            )
            return top_k(queries, documents, k, encoder.device)
        case LateInteractionEncoder():
            tokens = encode_tokens(
                encoder, set.documents, "document", micro_batch_tokens, precision
            )
            asked = encode_queries(encoder, set.queries, micro_batch_tokens, precision)
            return top_k_maxsim(asked.padded(), tokens, k)
        case _:
            raise TypeError(
                f"how the embeddings of {type(encoder).__name__} are compared is not known"
            )


def evaluate_bm25(
    set: "RetrievalSet", k: int = 100, name: str = "BM25", metrics: Sequence[str] = METRICS
) -> SystemResult:
    """How well search by words does on the same set."""
    return evaluate_run(bm25_run(set, k + 1), set, name, k, metrics)


def evaluate_run(
    run: RetrievalRun,
    set: "RetrievalSet",
    name: str,
    k: int = 100,
    metrics: Sequence[str] = METRICS,
) -> SystemResult:
    """Metrics of any run on the queries of `set` that have judgements.

    As in BEIR, a document whose id is the query's own is left out (there the query is itself a
    document of the corpus), unless the judgements name it, which shows that the ids are alike by
    chance only. Then the best k count.

    Raises BadData when no query has a judgement.
    """
    qrels = {query: set.qrels[query] for query in set.query_ids if set.qrels.get(query)}
    if not qrels:
        raise BadData(
            f"{set.name}: none of its {len(set.query_ids)} queries has a judged document, so"
            " nothing can be measured; check that the query ids of the qrels are those of the"
            " queries"
        )
    cut: RetrievalRun = {}
    for query, judgements in qrels.items():
        hits = run.get(query, {})
        cut[query] = dict(
            rank_documents(
                {d: score for d, score in hits.items() if d != query or d in judgements}
            )[:k]
        )
    top = {query: list(hits.items())[:_TOP] for query, hits in cut.items()}
    return SystemResult(name, tuple(qrels), per_query_metrics(cut, qrels, metrics), top)
