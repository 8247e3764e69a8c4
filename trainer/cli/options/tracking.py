"""Options for trackers."""

from typing import Annotated, Literal

import typer

TrackerKind = Literal["wandb", "tensorboard", "mlflow", "trackio"]

Kind = Annotated[
    TrackerKind | None,
    typer.Option(
        "--to", help="tracker (default: the first one in the run's recipe, or wandb)",
        show_default=False,
    ),
]  # fmt: skip
Project = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="NAME",
        help="project, or MLflow experiment (default: that of the recipe, or nearfar)",
        show_default=False,
    ),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="KIND",
        help=(
            "also show the results in wandb, tensorboard, mlflow or trackio, with settings as in a"
            " recipe: '{kind: wandb, group: search}'; may be repeated"
        ),
        show_default=False,
    ),
]
Entity = Annotated[
    str | None,
    typer.Option("--entity", metavar="NAME", help="W&B user or team", show_default=False),
]
