"""`nearfar check`: checks a run before it is submitted, and prints one finding per line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.options import shared

if TYPE_CHECKING:
    from trainer.preflight.findings import Finding

MachineFile = Annotated[
    Path | None,
    typer.Option(
        "--machine",
        metavar="FILE",
        help=(
            "machine file, e.g. launch/accelerate/ddp.yaml (default: one process, as for"
            " `nearfar fit`)"
        ),
        show_default=False,
    ),
]
ForReplacement = Annotated[
    bool, typer.Option("--replace", help="the run will be started with --replace")
]
NoProbe = Annotated[
    bool,
    typer.Option(
        "--no-probe",
        help="do not start the ranks, so that their gradient is not compared with one process",
    ),
]
ProbeTimeout = Annotated[
    int,
    typer.Option(
        "--probe-timeout-seconds", min=1, metavar="N", help="end the ranks after N seconds"
    ),
]


def check(
    recipe: shared.RecipeFile,
    machine: MachineFile = None,
    overrides: shared.Overrides = None,
    replace: ForReplacement = False,
    nodes: shared.Nodes = None,
    node_rank: shared.NodeRank = None,
    main_address: shared.MainAddress = None,
    no_probe: NoProbe = False,
    probe_timeout_seconds: ProbeTimeout = 600,
    as_rank: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Check a run before it is submitted: recipe, machine, data, model, memory, disk, and the
    gradient on the real ranks. Nothing is trained or written. Without --machine, the run is one
    process, whose gradient needs no comparison.

    For several machines, start it on each of them, like `nearfar launch`.
    """
    if as_rank is not None:
        from trainer.preflight.rank_part import take_part

        take_part(recipe, overrides or [], as_rank)
        return
    if machine is None and (nodes, node_rank, main_address) != (None, None, None):
        raise typer.BadParameter(
            "--nodes, --node-rank and --main-address need a machine file; give --machine FILE"
        )
    from trainer.preflight.check import check_run
    from trainer.preflight.planned_run import Request

    request = Request(recipe, machine, overrides or [], replace, nodes, node_rank, main_address)
    findings = check_run(request, None if no_probe else probe_timeout_seconds, _show)
    if findings.faults:
        print(f"{findings.faults} problem{'s' if findings.faults > 1 else ''} found")
        raise typer.Exit(2)
    print("no problems found")


def _show(finding: "Finding") -> None:
    from trainer.storage.visible import visible

    print("\n".join(map(visible, str(finding).split("\n"))), flush=True)
