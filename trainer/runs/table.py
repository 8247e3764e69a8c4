"""The overview of runs on a terminal. Names and messages of unknown origin are escaped."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from rich.table import Table
from rich.text import Text

from trainer.runs.overview import RunOverview
from trainer.storage.visible import visible

_COLORS = {
    "running": "green",
    "waiting": "cyan",
    "done": "",
    "stopped": "yellow",
    "preempted": "yellow",
    "failed": "red",
    "killed": "red",
}
_LONGEST_NAME, _LONGEST_REASON = 60, 400


def overview_table(runs: Sequence[RunOverview]) -> Table:
    """Returns a table with one row per run. It is at most 80 columns wide."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=8)
    table.add_column("state", no_wrap=True)
    for name in ("step", "loss", "nDCG@10", "resumed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("started", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for run in runs:
        table.add_row(*_cells(run))
    return table


def remarks(runs: Sequence[RunOverview]) -> list[Text]:
    """Returns a line for each reason why scores are too high, and for each run that has ended
    early, waits or runs; and how to continue it.
    """
    limitations = dict.fromkeys(run.score_limitation for run in runs if _score(run).endswith("*"))
    lines = [Text(f"* {visible(limitation, _LONGEST_REASON)}") for limitation in limitations]
    for run in runs:
        if run.reason is None and run.state == "done":
            continue
        code = f" (exit code {run.exit_code})" if run.exit_code is not None else ""
        reason = visible(run.reason or "without a message", _LONGEST_REASON)
        lines.append(
            Text.assemble(
                (visible(run.name, _LONGEST_NAME), "bold"), f": {run.state}{code}: {reason}"
            )
        )
        if run.next_command is not None:
            lines.append(Text(f"  continue: {visible(run.next_command)}"))
    return lines


def _cells(run: RunOverview) -> list[Text]:
    latest = run.latest
    step = "-" if latest.step is None else str(latest.step)
    return [
        Text(visible(run.name, _LONGEST_NAME)),
        Text(run.state, style=_COLORS[run.state]),
        Text(step if run.total_steps is None else f"{step}/{run.total_steps}"),
        Text("-" if latest.loss is None else f"{latest.loss:.4g}"),
        Text(_score(run)),
        Text(str(run.resume_count)),
        Text(_day_and_time(run.start)),
        Text("-" if run.seconds is None else _duration(run.seconds)),
    ]


def _score(run: RunOverview) -> str:
    if run.latest.best_score is None:
        return "-"
    return f"{run.latest.best_score:.3f}{'*' if run.score_limitation else ''}"


def _day_and_time(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%m-%d %H:%M")


def _duration(seconds: float) -> str:
    """Returns a time in its two largest units.

    >>> _duration(59.6), _duration(3725.0), _duration(2e5)
    ('1m 00s', '1h 02m', '2d 07h')
    """
    total = round(seconds)
    for (size, name), (part_size, part) in pairwise(_UNITS):
        if total >= size:
            return f"{total // size}{name} {total % size // part_size:02}{part}"
    return f"{total}s"


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
