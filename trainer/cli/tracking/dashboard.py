"""`nearfar dashboard`: writes the W&B workspace of a project from code."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import terminal
from trainer.cli.options import tracking

Update = Annotated[
    str | None,
    typer.Option(
        "--update",
        metavar="URL",
        help="give the workspace at this address the sections anew (default: create one)",
        show_default=False,
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", metavar="FILE", help="write it to this JSON file instead", show_default=False
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="build it and list its sections, but send nothing")
]


def dashboard(
    project: tracking.Project = None,
    entity: tracking.Entity = None,
    update: Update = None,
    out: OutFile = None,
    dry_run: DryRun = False,
) -> None:
    """Write a W&B workspace with the curves, results and comparison of the runs of a project."""
    from trainer.storage.atomic import write_text
    from trainer.tracking.dashboard.panels import SECTIONS
    from trainer.tracking.dashboard.workspace import save_workspace, workspace_json

    if out is not None:
        terminal.check_parent(out, "--out")
    project = project or "nearfar"
    if not (out or dry_run):
        print(save_workspace(project, entity, update))
        return
    text = workspace_json(project, entity)
    for section in SECTIONS:
        print(f"{section.title}: {', '.join(panel.title for panel in section.panels)}")
    if out is not None:
        write_text(out, text + "\n")
        print(f"written to {out}")
