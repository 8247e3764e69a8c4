"""The curves and counts of a run's training, from its `log.jsonl`."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from trainer.evaluation.results import MAIN_METRIC
from trainer.report.charts.line_chart import Line, line_chart, moving_average
from trainer.report.charts.svg import Figure
from trainer.report.read import Run
from trainer.report.text import metric_name

_SMOOTHING = 0.9
# metric, title, note, whether the axis starts at 0, whether the line is smoothed
_CURVES = (
    ("train/learning_rate", "Learning rate", "", True, False),
    ("train/gradient_norm", "Gradient norm", "before clipping", True, True),
    ("train/pairs_per_second", "Speed", "training pairs per second", True, False),
    ("train/active_terms_per_query", "Active terms per query", "of sparse vectors", True, False),
    ("train/active_terms_per_document", "Active terms per document", "", True, False),
)
REFRESH = {
    "queries": "queries",
    "negatives": "negatives",
    "queries_with_fewer": "queries with too few negatives",
    "suspected_false_negatives": "suspected false negatives",
    "seconds": "seconds",
}
"""Logged values of the mining of negatives during training, with their names in the table."""


@dataclass(frozen=True, slots=True)
class Training:
    """The section on training."""

    figures: list[Figure]
    steps: int
    seconds: float
    pairs_per_second: float | None
    """Median number of training pairs per second."""
    false_negatives: int
    """Number of candidates that were excluded from the loss."""
    refreshes: list[tuple[str, str, list[int]]]
    """One row per mining: when negatives were mined, an empty text, the counts of REFRESH."""


def training(run: Run) -> Training:
    """Returns the curves and counts that were logged during training."""
    figures = [_loss(run), _validation(run), *(_plain_curve(run, *curve) for curve in _CURVES)]
    steps = [step + 1 for record in run.log if isinstance(step := record.get("step"), int)]
    seconds = [_seconds(record) for record in run.log]
    rates = sorted(filter(None, run.series("train/pairs_per_second")[1]))
    false_negatives = run.series("train/masked_false_negatives")[1]
    return Training(
        figures=[figure for figure in figures if figure is not None],
        steps=max(steps, default=0),
        seconds=max(seconds, default=0.0),
        pairs_per_second=rates[len(rates) // 2] if rates else None,
        false_negatives=round(sum(filter(None, false_negatives))),
        refreshes=_refreshes(run),
    )


def _seconds(record: Mapping[str, object]) -> float:
    seconds = record.get("time_seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def _refreshes(run: Run) -> list[tuple[str, str, list[int]]]:
    series = [dict(zip(*run.series(f"refresh/{name}"), strict=True)) for name in REFRESH]
    steps = sorted(step for step, queries in series[0].items() if queries)
    return [
        (
            f"after {step - 1:,} steps" if step > 1 else "at the beginning",
            "",
            [int(values_by_step.get(step) or 0) for values_by_step in series],
        )
        for step in steps
    ]


def _loss(run: Run) -> Figure | None:
    steps, values = run.series("train/loss")
    lines = [Line(steps, values, "faint"), Line(steps, moving_average(values, _SMOOTHING))]
    return _figure(
        "Loss", "training, smoothed; faint: each step", line_chart("Training loss", lines)
    )


def _validation(run: Run) -> Figure | None:
    steps, values = run.series(f"validation/{MAIN_METRIC}")
    scores = [(value, step) for step, value in zip(steps, values, strict=True) if value is not None]
    if not scores:
        return None
    score, step = max(scores, key=lambda point: (point[0], -point[1]))
    title = f"Validation {metric_name(MAIN_METRIC)}"
    mark = (step, score, f"best {score:.3f}")
    chart = line_chart(title, [Line(steps, values, dots=True)], mark)
    limitation = f", {run.validation_limitation}" if run.validation_limitation else ""
    return _figure(title, f"on held-out queries{limitation}", chart)


def _plain_curve(
    run: Run, metric: str, title: str, note: str, from_zero: bool, smooth: bool
) -> Figure | None:
    steps, values = run.series(metric)
    lines = [Line(steps, values)]
    if smooth:
        lines = [Line(steps, values, "faint"), Line(steps, moving_average(values, _SMOOTHING))]
    return _figure(title, note, line_chart(title, lines, from_zero=from_zero))


def _figure(title: str, note: str, chart: Markup) -> Figure | None:
    return Figure(title, note, chart) if chart else None
