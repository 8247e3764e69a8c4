"""A comparison of runs as a person reads it on a terminal. Texts of the runs are escaped."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trainer.report.comparison.run_comparison import RunComparison
from trainer.report.text import metric_name, probability, with_sign
from trainer.storage.visible import visible


def comparison_text(comparison: RunComparison) -> Iterator[RenderableType]:
    """Yields tables of figures and of settings that differ, the tests, and the warnings."""
    names = [column.name for column in comparison.runs]
    yield _table(names, comparison.facts)
    if comparison.settings:
        yield Text("\nSettings that differ", "bold")
        yield _table(names, comparison.settings)
    if comparison.tests:
        count = len(comparison.tests)
        correction = f", Holm's correction for {count} tests" if count > 1 else ""
        yield Text(f"\nPaired randomisation tests on the same queries{correction}", "bold")
    for test in comparison.tests:
        verdict = "proven" if test.is_proven else "not proven"
        yield Text(
            f"  {visible(test.baseline)} to {visible(test.system)}:"
            f" {with_sign(test.test.difference)} {metric_name(test.metric)}"
            f" [{with_sign(test.test.low)}, {with_sign(test.test.high)}],"
            f" {probability(test.corrected_p_value)}, {verdict}"
        )
    yield Text(f"\n{visible(comparison.headline)}", "bold")
    for warning in comparison.warnings:
        yield Text(f"warning: {visible(warning)}", "yellow")


def _table(names: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> Table:
    table = Table("", box=None, header_style="bold")
    for name in names:
        table.add_column(visible(name, 60), overflow="fold")
    for name, values in rows:
        table.add_row(visible(name, 60), *(visible(value, 120) for value in values))
    return table
