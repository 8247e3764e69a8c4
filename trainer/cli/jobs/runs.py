"""`nearfar runs`: shows what runs, what waits, and how the other runs ended."""

import json
from pathlib import Path
from typing import Annotated

import typer

RunsFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="folder of runs, or the folder of one run")
]
Json = Annotated[bool, typer.Option("--json", help="print the runs as one JSON list")]


def runs(folder: RunsFolder = Path("runs"), as_json: Json = False) -> None:
    """Show the runs in a folder, the latest start first: state, latest step, loss, best nDCG@10 on
    the validation queries, how often it was resumed, and why it ended.
    """
    from trainer.runs.overview import read_overviews

    overviews = read_overviews(folder)
    if as_json:
        typer.echo(json.dumps([run.record() for run in overviews], indent=2))
        return
    from trainer.runs.table import overview_table, remarks
    from trainer.runtime.console import show

    if not overviews:
        typer.echo(f"no runs in {folder}")
        return
    show(overview_table(overviews), *remarks(overviews))
