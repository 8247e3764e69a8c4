"""`nearfar compare`: shows runs side by side, with paired tests."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import terminal

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="two or more run folders", show_default=False),
]
Html = Annotated[
    bool,
    typer.Option(
        "--html", help="also write a page, comparison.html beside the folder of the first run"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="write the page to FILE", show_default=False),
]


def compare(runs: Runs, html: Html = False, out: Out = None) -> None:
    """Show runs side by side: test figures with intervals, time, hardware, and the settings that
    differ.

    Runs that were measured on the same test queries are compared by paired tests, with Holm's
    correction. Runs that were measured on others are named, and not compared.
    """
    from trainer.report.comparison.page import write_comparison
    from trainer.report.comparison.run_comparison import compare_runs
    from trainer.report.comparison.text import comparison_text
    from trainer.runtime.console import show

    if out is not None:
        terminal.check_parent(out, "--out")
    comparison = compare_runs(runs)
    show(*comparison_text(comparison))
    if html or out is not None:
        path = out or runs[0].resolve().parent / "comparison.html"
        print(write_comparison(comparison, path))
