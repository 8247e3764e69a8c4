"""The page and the file of a selection."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.evaluation.results import MAIN_METRIC
from trainer.report.charts.cost_chart import CostPoint, cost_chart
from trainer.report.charts.svg import Figure
from trainer.report.page import write_page
from trainer.report.text import metric_name
from trainer.selection.select import ModelSelection
from trainer.selection.table import conclusion_of, marks_of, selection_lines
from trainer.storage.atomic import write_text

PAGE, FILE = "selection.html", "selection.json"


def check_folder(folder: Path) -> None:
    """Raises BadFolder before anything is measured if the result cannot be written there."""
    if folder.exists() and not folder.is_dir():
        raise BadFolder(f"{folder} is not a folder; give another one with --out")
    folder.mkdir(parents=True, exist_ok=True)


def write_selection(selection: ModelSelection, folder: Path) -> Path:
    """Writes the page and the JSON file of a selection, and returns the path of the page."""
    write_text(folder / FILE, json.dumps(_record(selection), indent=2) + "\n")
    title = f"Test {metric_name(MAIN_METRIC)} and the time of a search"
    points = [
        CostPoint(
            _label(measurement.candidate),
            measurement.quality,
            measurement.cost.latency_ms,
            measurement in selection.choice.efficient,
        )
        for measurement in selection.measurements
    ]
    rows = [
        (measurement, ", ".join(marks_of(measurement, selection)))
        for measurement in selection.measurements
    ]
    *remarks, _ = selection_lines(selection)
    write_page(
        folder / PAGE,
        "selection.html.j2",
        selection=selection,
        rows=rows,
        remarks=remarks,
        advice=conclusion_of(selection),
        chart=Figure(title, "efficient ones are joined", cost_chart(title, points)),
    )
    return folder / PAGE


def _label(candidate: str) -> str:
    """Returns a candidate without the folders and owners of its models.

    >>> _label("hybrid:runs/a/model+BAAI/bge-m3")
    'hybrid:a+bge-m3'
    """
    kind, colon, value = candidate.rpartition(":")
    parts = [part.removesuffix("/model").rpartition("/")[2] for part in value.split("+")]
    return kind + colon + "+".join(parts)


def _record(selection: ModelSelection) -> dict[str, Any]:
    choice = selection.choice
    return {
        "data": selection.judged_set.name,
        "queries": len(selection.judged_set.queries),
        "documents": len(selection.judged_set.documents),
        "limits": asdict(selection.limits),
        "candidates": [
            {
                "candidate": measurement.candidate,
                MAIN_METRIC: asdict(measurement.quality),
                "cost": asdict(measurement.cost),
                "is_efficient": measurement in choice.efficient,
                "is_in_group": measurement in choice.group,
            }
            for measurement in selection.measurements
        ],
        "dropped": [
            {
                "candidate": drop.candidate,
                "queries": drop.queries,
                MAIN_METRIC: drop.quality,
                "reason": drop.reason,
            }
            for drop in selection.drops
        ],
        "probes": [
            {
                "candidate": probe.model,
                "steps": probe.steps,
                "base": asdict(probe.base),
                "fine_tuned": asdict(probe.fine_tuned),
            }
            for probe in selection.probes
        ],
        "failures": [asdict(failure) for failure in selection.failures],
        "best": choice.best.candidate,
        "recommended": None if choice.recommendation is None else choice.recommendation.candidate,
        "advice": conclusion_of(selection),
        "warnings": list(selection.warnings),
        "seconds": selection.seconds,
    }
