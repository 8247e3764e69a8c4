"""Writes and reads `evaluation.json`, the file of an evaluation.

The file is one JSON object:

    {"format": 1, "set": name, "split": name, "documents": count,
     "leaked_queries": count or null,
     "limitation": why figures are too high, or "",
     "selection": {"base_score": x, "best_score": x, "best_step": n, "limitation": text} or null,
     "query_ids": [...],
     "queries": {query id: text},
     "texts": {document id: beginning of its text},          every document in a "top"
     "systems": [{"name": name,
                  "metrics": {metric: [one value per query, in the order of query_ids]},
                  "summary": {metric: {"mean": x, "low": x, "high": x}},
                  "top": {query id: [[document id, score], ... at most 10, best first]},
                  "note": a remark on the figures, or ""}],
     "failures": [{"system": name, "problem": why it was not measured}],
     "comparisons": [{"before": name, "after": name, "metric": metric,
                      "difference": x, "low": x, "high": x, "p_value": p,
                      "better": count, "equal": count, "worse": count,
                      "corrected_p_value": p, "detectable": x or null}],
     "general": [such an object for each general collection],
     "image_queries": such an object for the queries that are images, or null}

"low" and "high" bound the 95 % bootstrap interval. Systems are in the order of a table; the last
one is compared with each other one. Values and scores are rounded to six decimals.
"corrected_p_value" is after Holm's correction, and "detectable" the smallest difference that the
test would have seen. These two, "note", "failures", "leaked_queries", "limitation", "selection",
"general" and "image_queries" may be missing, as in old files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from trainer.errors import BadData
from trainer.evaluation.results import (
    Comparison,
    Evaluation,
    Failure,
    Interval,
    Selection,
    SystemResult,
)
from trainer.evaluation.significance import PairedTest, holm
from trainer.storage.atomic import write_text

_FORMAT = 1


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Writes `evaluation.json`; a partial file is never left behind."""
    write_text(path, json.dumps(_content(evaluation), separators=(",", ":")))


def _content(evaluation: Evaluation) -> dict[str, Any]:
    systems = [
        {
            "name": system.name,
            "metrics": {metric: _round(values) for metric, values in system.metrics.items()},
            "summary": {metric: _rounded_interval(system, metric) for metric in system.metrics},
            "top": {
                query: [[document, round(score, 6)] for document, score in hits]
                for query, hits in system.top.items()
            },
            "note": system.note,
        }
        for system in evaluation.systems
    ]
    return {
        "format": _FORMAT,
        "set": evaluation.set_name,
        "split": evaluation.split,
        "documents": evaluation.documents,
        "leaked_queries": evaluation.leaked_queries,
        "limitation": evaluation.limitation,
        "selection": asdict(evaluation.selection) if evaluation.selection else None,
        "query_ids": list(evaluation.systems[0].query_ids) if evaluation.systems else [],
        "queries": evaluation.queries,
        "texts": evaluation.texts,
        "systems": systems,
        "failures": [asdict(failure) for failure in evaluation.failures],
        "comparisons": [
            {"before": comparison.baseline, "after": comparison.system, "metric": comparison.metric}
            | asdict(comparison.test)
            | {
                "corrected_p_value": comparison.corrected_p_value,
                "detectable": comparison.detectable,
            }
            for comparison in evaluation.comparisons
        ],
        "general": [*map(_content, evaluation.general)],
        "image_queries": evaluation.image_queries and _content(evaluation.image_queries),
    }


def read_evaluation(path: Path) -> Evaluation:
    """Reads a file that `write_evaluation` has written. Raises BadData for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise BadData(
                f"{path} has format {content['format']}, but this version of nearfar reads format"
                f" {_FORMAT}; evaluate again"
            )
        return _evaluation(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BadData(
            f"{path} is not an evaluation.json ({type(problem).__name__}: {problem}); write one"
            " with `nearfar evaluate --out`"
        ) from problem


def _evaluation(content: Mapping[str, Any]) -> Evaluation:
    query_ids = tuple(map(str, content["query_ids"]))
    leaks, by_image = content.get("leaked_queries"), content.get("image_queries")
    return Evaluation(
        str(content["set"]),
        str(content["split"]),
        int(content["documents"]),
        _systems(content["systems"], query_ids),
        _comparisons(content["comparisons"]),
        {str(query): str(text) for query, text in content["queries"].items()},
        {str(document): str(text) for document, text in content["texts"].items()},
        None if leaks is None else int(leaks),
        selection_from(content.get("selection")),
        str(content.get("limitation", "")),
        tuple(
            Failure(str(entry["system"]), str(entry["problem"]))
            for entry in content.get("failures", [])
        ),
        tuple(map(_evaluation, content.get("general", []))),
        None if by_image is None else _evaluation(by_image),
    )


def selection_from(entry: Mapping[str, Any] | None) -> Selection | None:
    """Returns the selection in `evaluation.json` or `status.json`, or None if there is none.

    Raises ValueError, KeyError or TypeError for an invalid entry.

    >>> selection_from({"base_score": 0.5, "best_score": 0.4, "best_step": 8}).base_won
    True
    """
    if entry is None:
        return None
    base, best, share_score = (
        None if entry.get(key) is None else float(entry[key])
        for key in ("base_score", "best_score", "share_score")
    )
    limitation, share = str(entry.get("limitation", "")), float(entry.get("share", 1.0))
    return Selection(base, best, int(entry["best_step"]), limitation, share, share_score)


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
        str(metric): Interval(
            float(interval["mean"]), float(interval["low"]), float(interval["high"])
        )
        for metric, interval in entry["summary"].items()
    }
    note = str(entry.get("note", ""))
    return SystemResult(str(entry["name"]), query_ids, metrics, top, summary, note)


def _comparisons(entries: Sequence[Mapping[str, Any]]) -> tuple[Comparison, ...]:
    corrected_p_values = holm([float(entry["p_value"]) for entry in entries])
    return tuple(map(_comparison, entries, corrected_p_values))


def _comparison(entry: Mapping[str, Any], corrected_p_value: float) -> Comparison:
    difference, low, high, p_value = (
        float(entry[name]) for name in ("difference", "low", "high", "p_value")
    )
    better, equal, worse = (int(entry[name]) for name in ("better", "equal", "worse"))
    detectable = entry.get("detectable")
    return Comparison(
        str(entry["before"]),
        str(entry["after"]),
        str(entry["metric"]),
        PairedTest(difference, low, high, p_value, better, equal, worse),
        float(entry.get("corrected_p_value", corrected_p_value)),
        None if detectable is None else float(detectable),
    )


def _rounded_interval(system: SystemResult, metric: str) -> dict[str, float]:
    return {name: round(value, 6) for name, value in asdict(system.interval(metric)).items()}


def _round(values: Float64[np.ndarray, " query"]) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
