"""`report.html` of a run: its results, its training, and how to use the model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.evaluation.results import BASE, BM25, MAIN_METRIC, Evaluation
from trainer.evaluation.verdict import sentence, verdict
from trainer.recipe.changed_keys import changed_keys
from trainer.report.charts.comparison_charts import change_histogram, interval_chart
from trainer.report.charts.svg import Figure
from trainer.report.data_section import COUNTS
from trainer.report.next_steps import next_steps
from trainer.report.page import write_page
from trainer.report.query_changes import (
    MOST_CHANGES,
    QueryChange,
    largest_changes,
    query_changes,
)
from trainer.report.query_table import QueryTable, query_table
from trainer.report.read import Run, read_run
from trainer.report.text import duration, metric_name, setting_text
from trainer.report.training import REFRESH, training
from trainer.report.usage import usage

MOST_STEPS = 5
_TABLE_METRICS = (MAIN_METRIC, "mrr@10", "map", "recall@10", "recall@100")
_METRIC = metric_name(MAIN_METRIC)


def write_report(run_folder: Path) -> Path:
    """Writes `report.html` from the present content of the run folder, and returns its path.

    Raises BadFolder for a folder that is not a run folder.
    """
    return write_run_page(read_run(Path(run_folder)))


def write_run_page(run: Run) -> Path:
    """Writes `report.html` of a run that was read, and returns its path."""
    path = run.folder / "report.html"
    write_page(
        path,
        "run.html.j2",
        run=run,
        facts=_facts(run),
        notices=_notices(run),
        verdict=verdict(run.evaluation, run.selection),
        next_steps=next_steps(run)[:MOST_STEPS],
        scores=_scores(run.evaluation),
        table=_table(run.evaluation),
        limitation=sentence(run.evaluation.limitation) if run.evaluation else "",
        queries=_queries(run.evaluation),
        pictures=run.pictures,
        training=training(run),
        data_counts=list(COUNTS.values()),
        refresh_counts=list(REFRESH.values()),
        usage=usage(run.folder / "model"),
        settings=list(_settings(run)),
        environment=list(_flat(run.environment)),
        metric=_METRIC,
        most_changes=MOST_CHANGES,
    )
    return path


@dataclass(frozen=True, slots=True)
class Notice:
    """A message at the top of the report. `text` may have code in backticks."""

    headline: str
    text: str
    calm: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """The main metric of the trained model and of the systems it is compared with."""

    trained_model: float
    base: float | None
    bm25: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """The systems side by side."""

    set_name: str
    metrics: list[str]
    best: dict[str, float]
    chart: Figure


@dataclass(frozen=True, slots=True)
class Queries:
    """The queries that became better or worse, with the largest change first."""

    better: list[QueryChange]
    worse: list[QueryChange]
    equal: int
    chart: Figure | None
    table: QueryTable | None


def _facts(run: Run) -> dict[str, str]:
    seconds = run.status.get("seconds")
    return {
        "": _date(run.environment.get("started")),
        "model": _recipe_value(run.recipe_yaml, "backbone"),
        "data": _recipe_value(run.recipe_yaml, "train"),
        "took": duration(float(seconds)) if isinstance(seconds, int | float) else "",
    }


def _notices(run: Run) -> Iterable[Notice]:
    match run.status.get("status"):
        case "failed":
            yield Notice("This run failed.", str(run.status.get("error", "")))
        case "stopped":
            yield Notice(
                "This run was stopped before its end.",
                "The best weights so far were saved.",
                calm=True,
            )
        case None | "" if run.is_running:
            yield Notice(
                "",
                "This page was written while the run was in progress; `nearfar report` writes it"
                " again.",
                calm=True,
            )
        case None | "":
            yield Notice(
                "This run was killed before its end.",
                "The log is complete up to that moment.",
            )
    non_finite = [
        (record["step"], name)
        for record in run.log
        for name in record.get("non_finite", [])
        if isinstance(record.get("step"), int)
    ]
    if non_finite:
        step, name = non_finite[0]
        yield Notice(
            "Values that are not finite:",
            f"{name} at step {step + 1}, {len(non_finite)} in all. They are gaps in the curves.",
        )
    if run.evaluation is None:
        yield Notice("", "This run has no evaluation on test queries.", calm=True)


def _scores(evaluation: Evaluation | None) -> Scores | None:
    if evaluation is None or MAIN_METRIC not in evaluation.systems[-1].metrics:
        return None
    means = {
        system.name: system.mean()
        for system in evaluation.systems[:-1]
        if MAIN_METRIC in system.metrics
    }
    return Scores(evaluation.systems[-1].mean(), means.get(BASE), means.get(BM25))


def _table(evaluation: Evaluation | None) -> Table | None:
    if evaluation is None:
        return None
    systems = evaluation.systems
    metrics = [metric for metric in _TABLE_METRICS if metric in systems[-1].metrics]
    best = {
        metric: max(system.interval(metric).mean for system in systems if metric in system.metrics)
        for metric in metrics
    }
    title = f"{_METRIC} with 95 % intervals"
    rows = [(system.name, system.interval()) for system in systems if MAIN_METRIC in system.metrics]
    set_name = evaluation.set_name.removesuffix(f" {evaluation.split}")
    return Table(set_name, metrics, best, Figure(title, "", interval_chart(title, rows)))


def _queries(evaluation: Evaluation | None) -> Queries | None:
    changes = query_changes(evaluation) if evaluation is not None else []
    if not changes:
        return None
    better, worse = largest_changes(changes)
    title = f"Change of {_METRIC} per query"
    chart = change_histogram(title, [change.difference for change in changes])
    return Queries(
        better=better,
        worse=worse,
        equal=len(changes) - len(better) - len(worse),
        chart=Figure(title, "without unchanged queries", chart) if chart else None,
        table=query_table(evaluation) if evaluation is not None else None,
    )


def _settings(run: Run) -> Iterable[tuple[str, str]]:
    """Yields name and value of the keys of the recipe that are not at their defaults."""
    for key, value in changed_keys(run.recipe).items() if run.recipe is not None else ():
        if key not in ("name", "output"):
            yield key, setting_text(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        key = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} · ")
        elif name == "memory_bytes" and isinstance(value, int):
            yield f"{prefix}memory", f"{value / 2**30:.1f} GiB"
        elif value not in (None, [], ""):
            yield key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _recipe_value(recipe_yaml: str, key: str) -> str:
    """Returns the first value with this key in the recipe, as text. It is only shown."""
    match = re.search(rf"^\s+{key}:[ \t]*(.+)$", recipe_yaml, re.MULTILINE)
    return match.group(1).strip().strip("'\"") if match else ""


def _date(text: Any) -> str:
    try:
        return f"{datetime.fromisoformat(str(text)):%d %B %Y, %H:%M}".lstrip("0")
    except ValueError:
        return ""
