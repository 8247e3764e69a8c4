"""Options of `nearfar pipeline`."""

from pathlib import Path
from typing import Annotated

import typer

PipelineFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="pipeline file, e.g. recipes/pipelines/teacher-to-student.yaml",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="changes to the pipeline: values.NAME=VALUE, name=NAME, output=FOLDER",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="print which stages are done and why the others would run; run nothing"
    ),
]
OnlyStage = Annotated[
    str | None,
    typer.Option("--only", metavar="STAGE", help="run only this stage", show_default=False),
]
StartStage = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STAGE",
        help="run this stage and all that depend on it again, although they are done",
        show_default=False,
    ),
]
PrintCommands = Annotated[
    bool,
    typer.Option(
        "--print-commands",
        help="print the commands that would run as a shell script for a cluster; run nothing",
    ),
]
AcceptStage = Annotated[
    str | None,
    typer.Option(
        "--accept",
        metavar="STAGE",
        help="record a stage as done whose command was run by hand",
        show_default=False,
    ),
]
