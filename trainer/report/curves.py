"""The curves of a run: what `log.jsonl` says about its training."""

from collections.abc import Iterable

from trainer.report.markup import count_table, duration, metric_name
from trainer.report.plots import Line, line_chart, smoothed
from trainer.report.read import MAIN_METRIC, Run

_SMOOTHING = 0.9
# metric, title, note, whether the axis starts at 0, whether the line is smoothed
_CURVES = (
    ("train/learning_rate", "Learning rate", "", True, False),
    ("train/gradient_norm", "Gradient norm", "before clipping", True, True),
    ("train/pairs_per_second", "Speed", "training pairs a second", True, False),
)

_REFRESH = {
    "queries": "queries",
    "negatives": "negatives",
    "queries_with_fewer": "queries with fewer than wanted",
    "suspected_false_negatives": "suspected right answers",
    "seconds": "seconds",
}
"""What is logged at each refresh, and its name in the table."""


def training_section(run: Run) -> Iterable[str]:
    """The section on training: what was logged, as curves."""
    figures = [
        figure
        for figure in (
            _loss(run),
            _validation(run),
            *(_plain_curve(run, *each) for each in _CURVES),
        )
        if figure
    ]
    if not figures:
        yield '<section><h2>Training</h2><p class="lead">No step was logged.</p></section>'
        return
    steps = max(step + 1 for record in run.log if isinstance(step := record.get("step"), int))
    seconds = max(
        (
            float(record["time_seconds"])
            for record in run.log
            if isinstance(record.get("time_seconds"), int | float)
        ),
        default=0.0,
    )
    rates = [value for value in run.series("train/pairs_per_second")[1] if value]
    rate = f", {sorted(rates)[len(rates) // 2]:,.0f} pairs a second" if rates else ""
    masked = sum(value for value in run.series("train/masked_false_negatives")[1] if value)
    kept_apart = (
        f"; {masked:,.0f} false negatives were recognised and left out of the loss"
        if masked
        else ""
    )
    yield (
        f'<section><h2>Training</h2><p class="lead">{steps:,} steps in'
        f" {duration(seconds)}{rate}{kept_apart}.</p><div"
        f' class="charts">{"".join(figures)}</div></section>'
    )
    yield from _mined_anew(run)


def _mined_anew(run: Run) -> Iterable[str]:
    """What `refresh` mined between steps."""
    found = {name: dict(zip(*run.series(f"refresh/{name}"), strict=True)) for name in _REFRESH}
    steps = sorted(step for step, queries in found["queries"].items() if queries)
    if not steps:
        return
    rows = [
        (
            f"after {step - 1:,} steps" if step > 1 else "at the beginning",
            "",
            *(int(each.get(step) or 0) for each in found.values()),
        )
        for step in steps
    ]
    yield (
        '<section><h2>Negatives mined anew</h2><p class="lead">By the model as it then was, for the'
        " queries of the steps up to the next time. A candidate that "
    )
    yield (
        "scores above its query's positive is suspected to be a right"
        f" answer.</p>{count_table(('', *_REFRESH.values()), rows)}</section>"
    )


def _loss(run: Run) -> str:
    steps, values = run.series("train/loss")
    chart = line_chart(
        "Training loss", [Line(steps, values, "faint"), Line(steps, smoothed(values, _SMOOTHING))]
    )
    return _figure("Loss", "training, smoothed; faint: each step", chart)


def _validation(run: Run) -> str:
    steps, values = run.series(f"validation/{MAIN_METRIC}")
    present = [
        (value, step) for step, value in zip(steps, values, strict=True) if value is not None
    ]
    if not present:
        return ""
    score, step = max(present, key=lambda each: (each[0], -each[1]))
    name = metric_name(MAIN_METRIC)
    chart = line_chart(
        f"Validation {name}",
        [Line(steps, values, dots=True)],
        mark=(step, score, f"best {score:.3f}"),
    )
    return _figure(f"Validation {name}", "on held-out queries", chart)


def _plain_curve(
    run: Run, metric: str, title: str, note: str, from_zero: bool, smooth: bool
) -> str:
    steps, values = run.series(metric)
    lines = (
        [Line(steps, values, "faint"), Line(steps, smoothed(values, _SMOOTHING))]
        if smooth
        else [Line(steps, values)]
    )
    return _figure(title, note, line_chart(title, lines, from_zero=from_zero))


def _figure(title: str, note: str, chart: str) -> str:
    return (
        "<figure"
        f' class="card"><figcaption><h3>{title}</h3><span>{note}</span></figcaption>{chart}</figure>'
        if chart
        else ""
    )
