"""`nearfar report`: the page of a run, written anew."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path, typer.Argument(help="run folder, e.g. runs/quickstart", show_default=False)
    ],
) -> None:
    """Write report.html of a run from its log and evaluation; print its path."""
    from trainer.report.run_page import write_report

    print(write_report(run))
