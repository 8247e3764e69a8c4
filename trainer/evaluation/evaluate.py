"""Measures systems on a set of judged queries, compares them, and keeps the outcome as
`evaluation.json`.

The file is one JSON object:

    {"format": 1, "set": name, "split": name, "documents": count,
     "query_ids": [...],
     "queries": {query id: text},  "texts": {document id: beginning of its text},      of every
     document in a "top"
     "systems": [{"name": name,
                  "metrics": {metric: [one value a query, in the order of query_ids]},
                  "summary": {metric: {"mean": x, "low": x, "high": x}},           95 % bootstrap
                  interval of the mean
                  "top": {query id: [[document id, score], ... at most 10, best first]}}],
     "comparisons": [{"before": name, "after": name, "metric": metric, "difference": x, "low": x,
     "high": x,
                      "p_value": p, "better": count, "equal": count, "worse": count}]}

Systems are in the order of a table: the last one is the one in question, and each earlier one is
compared with it. Values and scores are rounded to six decimals.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from trainer.errors import BadData
from trainer.evaluation.metrics import METRICS, Run, per_query_metrics, ranked
from trainer.evaluation.significance import PairedTest, bootstrap_interval, paired_test
from trainer.models.cross_encoder import CrossEncoder
from trainer.models.dense import DenseEncoder
from trainer.models.late_interaction import LateInteractionEncoder
from trainer.retrieval.bm25 import bm25_run
from trainer.retrieval.indexes.search import top_k
from trainer.retrieval.rerank import rerank
from trainer.retrieval.token_index.search import top_k_maxsim
from trainer.retrieval.vectors.encode import Precision, encode_for_search
from trainer.retrieval.vectors.token_vectors import encode_queries, encode_tokens
from trainer.runtime.run_folder import write_atomically

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet
    from trainer.models.encoder import Encoder

MAIN_METRIC = "ndcg@10"
"""What systems are compared by."""

CANDIDATES = 20
"""How many of BM25's documents a cross-encoder orders while it is trained and measured by itself,
where nothing else is said.
"""

Candidates = Callable[["RetrievalSet"], Run]
"""What finds the documents of each query that a cross-encoder puts in order."""

_FORMAT = 1
_TOP = 10
_TEXT = 120


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system on one set: each metric of each query, and the first ten documents of each
    query.
    """

    name: str
    query_ids: tuple[str, ...]
    metrics: dict[str, Float64[np.ndarray, " query"]]
    top: dict[str, list[tuple[str, float]]]

    def mean(self, metric: str = MAIN_METRIC) -> float:
        """Mean of a metric over all queries."""
        return float(self.metrics[metric].mean())


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test of two systems by one metric."""

    before: str
    after: str
    metric: str
    test: PairedTest


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything measured on one set: what `evaluation.json` holds."""

    set: str
    split: str
    documents: int
    systems: tuple[SystemResult, ...]
    comparisons: tuple[Comparison, ...]
    queries: dict[str, str]
    texts: dict[str, str]


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
) -> Run:
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
    run: Run,
    set: "RetrievalSet",
    depth: int,
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
) -> Run:
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
    run: Run, set: "RetrievalSet", name: str, k: int = 100, metrics: Sequence[str] = METRICS
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
    cut: Run = {}
    for query, judgements in qrels.items():
        hits = run.get(query, {})
        cut[query] = dict(
            ranked({d: score for d, score in hits.items() if d != query or d in judgements})[:k]
        )
    top = {query: list(hits.items())[:_TOP] for query, hits in cut.items()}
    return SystemResult(name, tuple(qrels), per_query_metrics(cut, qrels, metrics), top)


def compare(
    set: "RetrievalSet", split: str, systems: Sequence[SystemResult], metric: str = MAIN_METRIC
) -> Evaluation:
    """The systems side by side: each but the last is tested against the last, the one in
    question.
    """
    names = [system.name for system in systems]
    if len(names) != len(dict.fromkeys(names)):
        raise ValueError(f"two systems have the same name ({', '.join(names)}); give each its own")
    after = systems[-1]
    comparisons = [
        Comparison(
            before.name,
            after.name,
            metric,
            paired_test(before.metrics[metric], after.metrics[metric]),
        )
        for before in systems[:-1]
    ]
    judged, shown = (
        frozenset(after.query_ids),
        {document for system in systems for hits in system.top.values() for document, _ in hits},
    )
    queries = {
        query: text
        for query, text in zip(set.query_ids, set.queries, strict=True)
        if query in judged
    }
    texts = {
        document: text[:_TEXT]
        for document, text in zip(set.document_ids, set.documents, strict=True)
        if document in shown
    }
    return Evaluation(
        set.name, split, len(set.documents), tuple(systems), tuple(comparisons), queries, texts
    )


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Writes `evaluation.json` whole or not at all."""
    systems = [
        {
            "name": system.name,
            "metrics": {metric: _rounded(values) for metric, values in system.metrics.items()},
            "summary": {metric: _summary(values) for metric, values in system.metrics.items()},
            "top": {
                query: [[document, round(score, 6)] for document, score in hits]
                for query, hits in system.top.items()
            },
        }
        for system in evaluation.systems
    ]
    content = {
        "format": _FORMAT,
        "set": evaluation.set,
        "split": evaluation.split,
        "documents": evaluation.documents,
        "query_ids": list(evaluation.systems[0].query_ids) if evaluation.systems else [],
        "queries": evaluation.queries,
        "texts": evaluation.texts,
        "systems": systems,
        "comparisons": [
            {"before": each.before, "after": each.after, "metric": each.metric} | asdict(each.test)
            for each in evaluation.comparisons
        ],
    }
    write_atomically(path, json.dumps(content, separators=(",", ":")))


def read_evaluation(path: Path) -> Evaluation:
    """What `write_evaluation` wrote. Raises BadData when the file is not that."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise BadData(
                f"{path}: written in format {content['format']}, this version reads format"
                f" {_FORMAT}; evaluate again"
            )
        query_ids = tuple(content["query_ids"])
        systems = tuple(_system(entry, query_ids) for entry in content["systems"])
        comparisons = tuple(_comparison(entry) for entry in content["comparisons"])
        return Evaluation(
            content["set"],
            content["split"],
            content["documents"],
            systems,
            comparisons,
            dict(content["queries"]),
            dict(content["texts"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BadData(
            f"{path}: not an evaluation.json ({type(problem).__name__}: {problem}); write one with"
            " `nearfar evaluate --out`"
        ) from problem


def _system(entry: Mapping[str, Any], query_ids: tuple[str, ...]) -> SystemResult:
    metrics = {
        metric: np.array(values, dtype=np.float64) for metric, values in entry["metrics"].items()
    }
    for metric, values in metrics.items():
        if values.shape != (len(query_ids),):
            raise ValueError(
                f"{entry['name']} has {values.size} values of {metric} for {len(query_ids)} queries"
            )
    top = {
        query: [(str(document), float(score)) for document, score in hits]
        for query, hits in entry["top"].items()
    }
    return SystemResult(entry["name"], query_ids, metrics, top)


def _comparison(entry: Mapping[str, Any]) -> Comparison:
    test = {key: entry[key] for key in PairedTest.__slots__}
    return Comparison(entry["before"], entry["after"], entry["metric"], PairedTest(**test))


def _summary(values: Float64[np.ndarray, " query"]) -> dict[str, float]:
    low, high = bootstrap_interval(values)
    return {"mean": round(float(values.mean()), 6), "low": round(low, 6), "high": round(high, 6)}


def _rounded(values: Float64[np.ndarray, " query"]) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
