"""Options of `nearfar submit`."""

from pathlib import Path
from typing import Annotated

import typer

Work = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|mine|pipeline",
        help="recipe file, or `mine` or `pipeline` and the arguments of that command",
        show_default=False,
    ),
]
MachineFile = Annotated[
    Path | None,
    typer.Option(
        "--machine",
        metavar="FILE",
        help="machine file, e.g. launch/accelerate/ddp.yaml; required except for a pipeline",
        show_default=False,
    ),
]
SlurmProfile = Annotated[
    Path,
    typer.Option(
        "--slurm",
        metavar="FILE",
        help="profile of the cluster, e.g. launch/slurm/profiles/gpu.yaml",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="change a key of the profile, e.g. --set time_limit=2:00:00; may be repeated",
        show_default=False,
    ),
]
JobName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="name of the job (default: of the recipe)",
        show_default=False,
    ),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="KEY=VALUE,VALUE",
        help=(
            "one run for each value of a recipe key, all in one array of jobs, e.g. --sweep"
            " seed=1,2,3; if repeated, one run for each combination"
        ),
        show_default=False,
    ),
]
Dependencies = Annotated[
    list[str] | None,
    typer.Option(
        "--after",
        metavar="JOB",
        help="start when this job has succeeded; may be repeated",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the script; submit nothing")]
