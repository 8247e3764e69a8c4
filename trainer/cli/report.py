"""`nearfar report`: writes the report page of a run again."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="run folder, e.g. runs/quickstart", show_default=False),
    ],
) -> None:
    """Write report.html of a run again, from its log and evaluation, and print its path."""
    from trainer.report.run_page import write_report

    print(write_report(run))
