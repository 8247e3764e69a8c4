"""The page of a comparison of runs."""

from collections.abc import Iterator
from pathlib import Path

from trainer.evaluation.results import MAIN_METRIC
from trainer.report.charts.comparison_charts import interval_chart
from trainer.report.charts.line_chart import Line, line_chart, moving_average
from trainer.report.charts.svg import Figure
from trainer.report.comparison.run_comparison import ComparedRun, RunComparison
from trainer.report.page import write_page
from trainer.report.text import metric_name

COLOURS = 6
"""The number of colours of lines. With more runs, colours repeat."""
_METRIC = metric_name(MAIN_METRIC)
# metric, title, whether the line is smoothed
_CURVES = (
    (f"validation/{MAIN_METRIC}", f"Validation {_METRIC}", False),
    ("train/loss", "Loss", True),
    ("train/learning_rate", "Learning rate", False),
    ("train/gradient_norm", "Gradient norm", True),
    ("train/pairs_per_second", "Pairs per second", False),
)


def write_comparison(comparison: RunComparison, path: Path) -> Path:
    """Writes the page of a comparison, and returns its path."""
    measured_runs = [
        (column.name, column.model.interval())
        for column in comparison.runs
        if column.model is not None
    ]
    measured_runs.sort(key=lambda row: row[1].mean)  # the last one is highlighted
    title = f"Test {_METRIC} with 95 % intervals"
    write_page(
        path,
        "comparison.html.j2",
        comparison=comparison,
        names=[column.name for column in comparison.runs],
        colours=COLOURS,
        figures=list(_curves(comparison.runs)),
        chart=Figure(title, "", interval_chart(title, measured_runs)),
        headline=comparison.headline,
        metric=_METRIC,
    )
    return path


def _curves(runs: list[ComparedRun]) -> Iterator[Figure]:
    for metric, title, is_smooth in _CURVES:
        lines = []
        for number, column in enumerate(runs):
            steps, values = column.run.series(metric)
            values = moving_average(values, 0.9) if is_smooth else values
            lines.append(Line(steps, values, f"run{number % COLOURS}"))
        if chart := line_chart(title, lines):
            yield Figure(title, "smoothed" if is_smooth else "", chart)
