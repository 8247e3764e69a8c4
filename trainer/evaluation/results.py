"""What was measured on one set of judged queries, and its file `evaluation.json`.

The file is one JSON object:

    {"format": 1, "set": name, "split": name, "documents": count,
     "leaked_queries": count or null,
     "selection": {"base_score": x, "best_score": x, "best_step": n} or null,
     "query_ids": [...],
     "queries": {query id: text},
     "texts": {document id: beginning of its text},          every document in a "top"
     "systems": [{"name": name,
                  "metrics": {metric: [one value per query, in the order of query_ids]},
                  "summary": {metric: {"mean": x, "low": x, "high": x}},
                  "top": {query id: [[document id, score], ... at most 10, best first]}}],
     "comparisons": [{"before": name, "after": name, "metric": metric,
                      "difference": x, "low": x, "high": x, "p_value": p,
                      "better": count, "equal": count, "worse": count}]}

"low" and "high" bound the 95 % bootstrap interval. Systems are in the order of a table: the last
one is the one in question, and each earlier one is compared with it. Values and scores are rounded
to six decimals. Files written before "leaked_queries" and "selection" existed are read too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from trainer.errors import BadData
from trainer.evaluation.significance import PairedTest, bootstrap_interval, paired_test
from trainer.storage.atomic import write_text
from trainer.storage.visible import visible

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet

MAIN_METRIC = "ndcg@10"
"""The metric by which systems are compared."""

BASE, BM25, FINE_TUNED = "base", "BM25", "fine-tuned"
"""Names of the systems that a run compares."""

_FORMAT = 1
_TEXT = 120


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over queries and the bounds of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system on one set: each metric of each query, and the first ten documents of each
    query.
    """

    name: str
    query_ids: tuple[str, ...]
    metrics: dict[str, Float64[np.ndarray, " query"]]
    top: dict[str, list[tuple[str, float]]]
    summary: dict[str, Interval] = field(default_factory=dict)
    """The interval of each metric, where a file holds it already."""

    def mean(self, metric: str = MAIN_METRIC) -> float:
        """Mean of a metric over all queries."""
        return float(self.metrics[metric].mean())

    def interval(self, metric: str = MAIN_METRIC) -> Interval:
        """Mean of a metric over all queries with its 95 % bootstrap interval."""
        if metric in self.summary:
            return self.summary[metric]
        low, high = bootstrap_interval(self.metrics[metric])
        return Interval(self.mean(metric), low, high)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test of two systems by one metric."""

    baseline: str
    system: str
    """The name of the system in question."""
    metric: str
    test: PairedTest


@dataclass(frozen=True, slots=True)
class Selection:
    """The validation scores that decided which weights a run saved as `model/`."""

    base_score: float | None
    """Score before the first step; None where the model before training cannot compete."""
    best_score: float | None
    """Best score of trained weights; None where none were validated."""
    best_step: int
    """Optimizer steps behind the best score."""

    @property
    def base_won(self) -> bool:
        """Whether `model/` holds the weights from before training."""
        if self.best_score is None:
            return True
        return self.base_score is not None and self.best_score <= self.base_score


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """Everything measured on one set: the content of `evaluation.json`. It prints as a table."""

    set_name: str
    split: str
    documents: int
    systems: tuple[SystemResult, ...]
    comparisons: tuple[Comparison, ...]
    queries: dict[str, str]
    texts: dict[str, str]
    leaked_queries: int | None = None
    """Measured queries that were training queries too; None where that is not known."""
    selection: Selection | None = None
    """How the weights of the last system were chosen; None where that is not known."""

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def _repr_html_(self) -> str:
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self._rows())
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def _rows(self) -> list[list[str]]:
        """The cells of a table: one row per system, one column per metric."""
        if not self.systems:
            return [[self.set_name]]
        metrics = list(self.systems[-1].metrics)
        rows = [[visible(self.set_name, 60), *metrics]]
        for system in self.systems:
            means = (f"{system.mean(metric):.3f}" for metric in metrics)
            rows.append([visible(system.name, 60), *means])
        return rows


def compare(
    retrieval_set: "RetrievalSet",
    split: str,
    systems: Sequence[SystemResult],
    metric: str = MAIN_METRIC,
    leaked_queries: int | None = None,
    selection: Selection | None = None,
) -> Evaluation:
    """The systems side by side, each but the last tested against the last, the one in question."""
    names = [system.name for system in systems]
    if len(names) != len(dict.fromkeys(names)):
        raise ValueError(f"two systems have the same name ({', '.join(names)}); give each its own")
    *baselines, system = systems
    comparisons = (
        Comparison(
            baseline.name,
            system.name,
            metric,
            paired_test(baseline.metrics[metric], system.metrics[metric]),
        )
        for baseline in baselines
    )
    texts = dict(zip(retrieval_set.document_ids, retrieval_set.documents, strict=True))
    top = {document for result in systems for hits in result.top.values() for document, _ in hits}
    queries = dict(zip(retrieval_set.query_ids, retrieval_set.queries, strict=True))
    return Evaluation(
        retrieval_set.name,
        split,
        len(texts),
        tuple(systems),
        tuple(comparisons),
        {query: queries[query] for query in system.query_ids},
        {document: text[:_TEXT] for document, text in texts.items() if document in top},
        leaked_queries,
        selection,
    )


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Writes `evaluation.json` completely or not at all."""
    systems = [
        {
            "name": system.name,
            "metrics": {metric: _round(values) for metric, values in system.metrics.items()},
            "summary": {metric: _rounded_interval(system, metric) for metric in system.metrics},
            "top": {
                query: [[document, round(score, 6)] for document, score in hits]
                for query, hits in system.top.items()
            },
        }
        for system in evaluation.systems
    ]
    content = {
        "format": _FORMAT,
        "set": evaluation.set_name,
        "split": evaluation.split,
        "documents": evaluation.documents,
        "leaked_queries": evaluation.leaked_queries,
        "selection": asdict(evaluation.selection) if evaluation.selection else None,
        "query_ids": list(evaluation.systems[0].query_ids) if evaluation.systems else [],
        "queries": evaluation.queries,
        "texts": evaluation.texts,
        "systems": systems,
        "comparisons": [
            {"before": comparison.baseline, "after": comparison.system, "metric": comparison.metric}
            | asdict(comparison.test)
            for comparison in evaluation.comparisons
        ],
    }
    write_text(path, json.dumps(content, separators=(",", ":")))


def read_evaluation(path: Path) -> Evaluation:
    """The content of a file that `write_evaluation` wrote. Raises BadData for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise BadData(
                f"{path}: written in format {content['format']}, this version reads format"
                f" {_FORMAT}; evaluate again"
            )
        query_ids = tuple(map(str, content["query_ids"]))
        leaks = content.get("leaked_queries")
        return Evaluation(
            str(content["set"]),
            str(content["split"]),
            int(content["documents"]),
            _systems(content["systems"], query_ids),
            tuple(_comparison(entry) for entry in content["comparisons"]),
            {str(query): str(text) for query, text in content["queries"].items()},
            {str(document): str(text) for document, text in content["texts"].items()},
            None if leaks is None else int(leaks),
            selection_from(content.get("selection")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BadData(
            f"{path}: not an evaluation.json ({type(problem).__name__}: {problem}); write one with"
            " `nearfar evaluate --out`"
        ) from problem


def selection_from(entry: Mapping[str, Any] | None) -> Selection | None:
    """The selection in `evaluation.json` or `status.json`; None where the file has none. Raises
    ValueError, KeyError or TypeError for an entry that is not one.

    >>> selection_from({"base_score": 0.5, "best_score": 0.4, "best_step": 8}).base_won
    True
    """
    if entry is None:
        return None
    base, best = (
        None if entry[key] is None else float(entry[key]) for key in ("base_score", "best_score")
    )
    return Selection(base, best, int(entry["best_step"]))


def _systems(
    entries: Sequence[Mapping[str, Any]], query_ids: tuple[str, ...]
) -> tuple[SystemResult, ...]:
    if not entries:
        raise ValueError("no system was measured")
    return tuple(_system(entry, query_ids) for entry in entries)


def _system(entry: Mapping[str, Any], query_ids: tuple[str, ...]) -> SystemResult:
    metrics = {
        str(metric): np.array(values, dtype=np.float64)
        for metric, values in entry["metrics"].items()
    }
    for metric, values in metrics.items():
        if values.shape != (len(query_ids),):
            raise ValueError(
                f"{entry['name']} has {values.size} values of {metric} for {len(query_ids)} queries"
            )
    top = {
        str(query): [(str(document), float(score)) for document, score in hits]
        for query, hits in entry["top"].items()
    }
    summary = {
        str(metric): Interval(float(each["mean"]), float(each["low"]), float(each["high"]))
        for metric, each in entry["summary"].items()
    }
    return SystemResult(str(entry["name"]), query_ids, metrics, top, summary)


def _comparison(entry: Mapping[str, Any]) -> Comparison:
    difference, low, high, p_value = (
        float(entry[name]) for name in ("difference", "low", "high", "p_value")
    )
    better, equal, worse = (int(entry[name]) for name in ("better", "equal", "worse"))
    test = PairedTest(difference, low, high, p_value, better, equal, worse)
    return Comparison(str(entry["before"]), str(entry["after"]), str(entry["metric"]), test)


def _rounded_interval(system: SystemResult, metric: str) -> dict[str, float]:
    return {name: round(value, 6) for name, value in asdict(system.interval(metric)).items()}


def _round(values: Float64[np.ndarray, " query"]) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
