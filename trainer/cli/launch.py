"""`nearfar launch`: one recipe, or one job of mining, on all ranks of a machine file. Both are
vetted here, before any rank is started.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.fit import fit
from trainer.cli.mine import mine
from trainer.strategies.launcher import read_by_accelerate, run_ranks

if TYPE_CHECKING:
    from trainer.strategies.environment import Plan

PORT = 29500
"""Where the ranks of several nodes meet when neither `--main-address` nor the machine file names a
port.
"""

SHUTDOWN_SECONDS = "600"
"""What the ranks are given after Ctrl-C to finish their step and save, before they are killed."""


ANY_WORDS = {"ignore_unknown_options": True}
"""Options that are not launch's own are those of what it starts."""


def launch(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE|mine",
            help="recipe file, or `mine` and what follows it",
            show_default=False,
        ),
    ],
    machine: Annotated[
        Path,
        typer.Option(
            "--machine", help="machine file, e.g. launch/accelerate/ddp.yaml", show_default=False
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="changes to it: key.sub=value; of mine: MODEL DATA -o FOLDER and options",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="as that of fit or mine")] = False,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="machines, each with the file's processes; else as the file says",
            show_default=False,
        ),
    ] = None,
    node_rank: Annotated[
        int | None,
        typer.Option(min=0, help="which of the nodes this is, from 0", show_default=False),
    ] = None,
    main_address: Annotated[
        str | None,
        typer.Option(
            help="HOST or HOST:PORT of node 0, the same on every node", show_default=False
        ),
    ] = None,
) -> None:
    """Train a model by a recipe, or mine hard negatives, on the processes that a machine file
    describes.
    """
    from trainer.strategies.environment import check_here, plan_from_file

    job = (
        _mining(overrides or [], replace)
        if recipe == Path("mine")
        else _training(recipe, overrides or [], replace)
    )
    plan = plan_from_file(machine)
    check_here(plan)
    by_accelerate = read_by_accelerate(machine)
    plan = _on_nodes(plan, machine, nodes or plan.nodes, by_accelerate.distributed_type)
    host, port = _meeting_point(
        plan, node_rank, main_address, by_accelerate.main_process_port or PORT
    )
    job.check(plan)
    if plan.accelerator:
        os.environ["ACCELERATE_USE_CPU"] = str(
            plan.accelerator == "cpu"
        )  # accelerate tells it to a single process only
    if plan.kind == "single":
        os.environ["ACCELERATE_MIXED_PRECISION"] = plan.precision or "no"
        return job.alone()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // plan.ranks_per_node)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    words = [*job.words, *(["--replace"] if replace else [])]
    raise typer.Exit(
        run_ranks(
            [
                *_launcher_options(plan, machine, node_rank or 0, host, port),
                "--module",
                "trainer",
                *words,
            ]
        )
    )


@dataclass(frozen=True)
class _Job:
    """What is started: its words on the command line of a rank, what of it a plan must fit, and how
    one process alone does it.
    """

    words: list[str]
    check: Callable[["Plan"], None]
    alone: Callable[[], None]


def _training(recipe: Path, overrides: list[str], replace: bool) -> _Job:
    from trainer.data.order import check_batch_divisible
    from trainer.recipe.load import load_recipe
    from trainer.runtime.run_folder import check_run_folder

    if foreign := [word for word in overrides if word.startswith("-")]:
        raise typer.BadParameter(f"No such option: {foreign[0].partition('=')[0]}")
    run = load_recipe(recipe, overrides)
    # On every node: one that went on alone would wait for the others. The folder is made once all
    # ranks of all nodes have met, so none comes too late.
    check_run_folder(Path(run.output) / run.name, replace)
    return _Job(
        ["fit", str(recipe), *overrides],
        lambda plan: check_batch_divisible(run.optimization.batch_size, plan.ranks),
        lambda: fit(recipe, overrides, replace),
    )


def _mining(words: list[str], replace: bool) -> _Job:
    """Its words are read as `nearfar mine` reads them, and its models looked for, so that a mistake
    is answered before any rank is started.
    """
    from trainer.models.files.locate import locate

    app = typer.Typer()
    app.command("mine")(mine)
    said = typer.main.get_command(app).make_context("nearfar launch mine", list(words)).params | {
        "replace": replace
    }
    for name in filter(None, (said["model"], said["teacher"])):
        locate(name)
    return _Job(["mine", *words], lambda plan: None, lambda: mine(**said))


def _on_nodes(plan: "Plan", machine: Path, nodes: int, distributed_type: str) -> "Plan":
    """The plan with the same processes on each of so many nodes."""
    from trainer.errors import BadMachine

    if nodes > 1 and distributed_type == "NO":
        raise BadMachine(
            f"{machine} starts one process, which cannot be on {nodes} nodes; take a file for"
            " several, e.g. launch/accelerate/ddp.yaml"
        )
    one_a_node = nodes > 1 and plan.kind == "single"  # one GPU a node, of a file for DDP
    return changed(
        plan,
        nodes=nodes,
        ranks=nodes * plan.ranks_per_node,
        kind="ddp" if one_a_node else plan.kind,
    )


def _meeting_point(
    plan: "Plan", node_rank: int | None, main_address: str | None, usual_port: int
) -> tuple[str | None, int | None]:
    """Host and port where the ranks meet; None and None on one node, where accelerate finds
    them.
    """
    from trainer.errors import BadMachine

    if plan.nodes == 1 and not node_rank:
        return None, None
    if node_rank is None or main_address is None:
        raise BadMachine(
            f"{plan.nodes} nodes: start this on each of them, with --node-rank 0 to"
            f" {plan.nodes - 1} and --main-address HOST (the name of node 0); under Slurm"
            " launch/slurm/fit.sbatch does it"
        )
    if node_rank >= plan.nodes:
        raise BadMachine(
            f"--node-rank {node_rank} of {plan.nodes} nodes: they count from 0 to {plan.nodes - 1};"
            " say with --nodes how many there are"
        )
    host, colon, port = main_address.rpartition(":")
    if not colon:
        return main_address, usual_port
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise BadMachine(
            f"--main-address {main_address} is not HOST or HOST:PORT with a port from 1 to 65535"
        )
    return host, int(port)


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _launcher_options(
    plan: "Plan", machine: Path, node_rank: int, host: str | None, port: int | None
) -> list[str]:
    """What `accelerate launch` is told besides the machine file."""
    options = [
        "--config_file",
        str(machine),
        "--num_processes",
        str(plan.ranks),
        "--num_machines",
        str(plan.nodes),
    ]
    if host is not None:
        options += [
            "--machine_rank",
            str(node_rank),
            "--main_process_ip",
            host,
            "--main_process_port",
            str(port),
            "--same_network",
        ]
        options += [
            "--deepspeed_multinode_launcher",
            "standard",
        ]  # not DeepSpeed's own, which would open ssh to the nodes
    return options
