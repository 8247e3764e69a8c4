"""A selection on a terminal."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from trainer.evaluation.systems.short_names import cell_names, short_names
from trainer.evaluation.verdict import conclusion
from trainer.selection.measure import Measurement
from trainer.selection.select import ModelSelection
from trainer.storage.visible import visible

_HEADER = ("nDCG@10 [95 %]", "texts/s", "ms p50/p95", "MB", "index MB")
_NAME_WIDTH, _LONGEST_NAME = 24, 60
"""The number of characters of a name, in the table and in a line."""


def selection_table(selection: ModelSelection) -> Table:
    """Returns a table with one row per candidate that was measured on all queries, best first."""
    judged_set = selection.judged_set
    title = (
        f"{visible(judged_set.name, 60)}: {len(judged_set.queries):,} queries,"
        f" {len(judged_set.documents):,} documents"
    )
    table = Table(
        title=Text(title),
        title_justify="left",
        box=None,
        header_style="dim",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", overflow="fold")
    for name in _HEADER:
        table.add_column(name, no_wrap=True, justify="right")
    candidates = [measurement.candidate for measurement in selection.measurements]
    names = cell_names(candidates, _NAME_WIDTH)
    for measurement in selection.measurements:
        is_best = measurement is selection.choice.best
        name = names[measurement.candidate]
        if marks := ", ".join(marks_of(measurement, selection)):
            name += f"\n({marks})"
        cells = map(Text, [name, *_figures(measurement)])
        table.add_row(*cells, style="bold" if is_best else None)
    return table


def marks_of(measurement: Measurement, selection: ModelSelection) -> Iterator[str]:
    """Yields what the choice says of a candidate."""
    choice = selection.choice
    if measurement is choice.best:
        yield "best"
    elif measurement in choice.group:
        yield "not proven worse"
    if measurement in choice.efficient:
        yield "efficient"
    if measurement is choice.recommendation:
        yield "recommended"


def selection_lines(selection: ModelSelection) -> Iterator[str]:
    """Yields what was dropped, what failed, what is proven, and what is recommended."""
    yield from map(str, selection.drops)
    for failure in selection.failures:
        yield f"not measured: {failure.system}: {failure.problem}"
    names = _line_names(selection)
    for comparison in selection.choice.comparisons:
        difference = comparison.test.difference
        yield (
            f"{names[comparison.system]} against {names[comparison.baseline]}: {difference:+.3f}."
            f" {conclusion(comparison)}"
        )
    yield from map(str, selection.probes)
    yield from (f"warning: {warning}" for warning in selection.warnings)
    yield conclusion_of(selection)


def conclusion_of(selection: ModelSelection) -> str:
    """Returns the recommendation in one or two sentences."""
    choice = selection.choice
    limits = f" within {selection.limits}" if str(selection.limits) else ""
    if choice.recommendation is None:
        return f"No candidate stays{limits}; raise the limits, or name smaller candidates."
    recommended_candidate, names = choice.recommendation, _line_names(selection)
    quickest = ", the quickest such one"
    if len(choice.group) == 1:
        quickest = quickest if recommended_candidate is not choice.best else ""
        group = f"{names[choice.best.candidate]} {_advantage(selection)}."
    else:
        group = (
            f"{len(choice.group)} candidates cannot be told apart from the best:"
            f" {', '.join(names[measurement.candidate] for measurement in choice.group)}."
        )
    return f"{group} Recommended{limits}: {recommended_candidate.candidate}{quickest}."


def _line_names(selection: ModelSelection) -> dict[str, str]:
    measurements = selection.measurements
    return short_names([measurement.candidate for measurement in measurements], _LONGEST_NAME)


def _advantage(selection: ModelSelection) -> str:
    """Returns what is proven of the best candidate, if it is alone in its group."""
    if len(selection.measurements) == 1:
        return "is the only one that was measured on all queries"
    rival = "candidate"
    if selection.drops:
        rival = "one that was measured on all queries"
    elif selection.failures:
        rival = "one that could be measured"
    return f"is the best one, proven against each other {rival}"


def _figures(measurement: Measurement) -> Iterator[str]:
    quality, cost = measurement.quality, measurement.cost
    yield f"{quality.mean:.3f} [{quality.low:.3f}, {quality.high:.3f}]"
    speed = cost.documents_per_second
    yield "–" if speed is None else f"{speed:,.0f}"
    yield f"{cost.latency_ms:.1f}/{cost.latency_p95_ms:.1f}"
    yield f"{cost.memory_mb:,.0f}"
    yield f"{cost.index_mb:,.1f}"
