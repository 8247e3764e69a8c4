"""Where the ranks of a run start, and `accelerate launch`, called in this process."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import BadMachine
from trainer.strategies.environment import Plan, check_here, plan_from_file

if TYPE_CHECKING:
    from accelerate.commands.config.config_args import ClusterConfig

PORT = 29500
"""Where the ranks of several nodes meet when neither `--main-address` nor the machine file names a
port.
"""
SHUTDOWN_SECONDS = 600
"""Time that the ranks have after Ctrl-C to finish their step and save, before they are killed."""


@dataclass(frozen=True)
class Launch:
    """How one node starts its ranks."""

    machine: Path
    plan: Plan
    node_rank: int = 0
    host: str | None = None
    """Where the ranks of all nodes meet; None on one node, where accelerate finds a place."""
    port: int | None = None

    def start(self, words: Sequence[str]) -> int:
        """Runs `nearfar` with these words on the ranks of this node; returns the exit code."""
        os.environ.update(rank_environment(self.plan, os.environ))
        return run_ranks([*self._options(), "--module", "trainer", *words])

    def prepare_single_process(self) -> None:
        """Exports what accelerate would export to a single process: this one."""
        os.environ.update(_device_environment(self.plan))
        os.environ["ACCELERATE_MIXED_PRECISION"] = self.plan.precision or "no"

    def _options(self) -> list[str]:
        """Options of `accelerate launch` besides those that the machine file gives."""
        counts = {"--num_processes": self.plan.ranks, "--num_machines": self.plan.nodes}
        meeting_point = {
            "--machine_rank": self.node_rank,
            "--main_process_ip": self.host,
            "--main_process_port": self.port,
            "--deepspeed_multinode_launcher": "standard",  # DeepSpeed's own would open ssh
        }
        options = {"--config_file": self.machine, **counts}
        if self.host is not None:
            options |= meeting_point
        words = [str(word) for option in options.items() for word in option]
        return [*words, "--same_network"] if self.host is not None else words


def plan_launch(
    machine: Path,
    nodes: int | None = None,
    node_rank: int | None = None,
    main_address: str | None = None,
) -> Launch:
    """The launch on this node; nothing is started.

    `nodes` replaces the number of the machine file, each with the same processes per node. Raises
    BadMachine when this machine lacks what the file asks for, or the nodes cannot meet.
    """
    plan = plan_from_file(machine)
    check_here(plan)
    accelerate_config = read_by_accelerate(machine)
    plan = on_nodes(plan, machine, nodes or plan.nodes, accelerate_config.distributed_type)
    usual_port = accelerate_config.main_process_port or PORT
    host, port = _meeting_point(plan, node_rank, main_address, usual_port)
    return Launch(machine, plan, node_rank or 0, host, port)


def on_nodes(plan: Plan, machine: Path, nodes: int, distributed_type: str) -> Plan:
    """The plan with the same processes on each of `nodes`. Raises BadMachine for a file of one
    process.
    """
    if nodes > 1 and distributed_type == "NO":
        raise BadMachine(
            f"{machine} starts one process, which cannot be on {nodes} nodes; take a file for"
            " several, e.g. launch/accelerate/ddp.yaml"
        )
    one_per_node = nodes > 1 and plan.kind == "single"  # one GPU on each node, of a file for DDP
    kind = "ddp" if one_per_node else plan.kind
    return replace(plan, nodes=nodes, ranks=nodes * plan.ranks_per_node, kind=kind)


def _meeting_point(
    plan: Plan, node_rank: int | None, main_address: str | None, usual_port: int
) -> tuple[str | None, int | None]:
    """Host and port where the ranks of all nodes meet; None and None on one node."""
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
            " give their number with --nodes"
        )
    host, colon, port = main_address.rpartition(":")
    if not colon:
        return main_address, usual_port
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise BadMachine(
            f"--main-address {main_address} is not HOST or HOST:PORT with a port from 1 to 65535"
        )
    return host, int(port)


def rank_environment(plan: Plan, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the ranks of a node: the cores are divided among them, and the device of
    the machine file is passed on, which accelerate does for a single process only.
    """
    threads = max(1, _cores() // plan.ranks_per_node)
    defaults = {
        "OMP_NUM_THREADS": str(threads),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS),
    }
    return {**defaults, **environ, **_device_environment(plan)}


def _device_environment(plan: Plan) -> dict[str, str]:
    return {"ACCELERATE_USE_CPU": str(plan.accelerator == "cpu")} if plan.accelerator else {}


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_by_accelerate(machine: Path) -> "ClusterConfig":
    """The file as accelerate reads it, which is stricter about keys than Nearfar is."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        return load_config_from_file(str(machine))
    except (ValueError, TypeError) as error:
        raise BadMachine(f"accelerate cannot use {machine}: {error}") from error


def run_ranks(arguments: list[str]) -> int:
    """Runs `accelerate launch` in this process and returns the exit code of the run: that of the
    first rank that failed, otherwise 0.

    In this process, because the command alone answers every failure of a rank with code 1 and a
    traceback of its own. A signal that ends the launcher (Ctrl-C) has been passed on to every rank,
    and each has ended, when this returns 128 + its number.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        code = int(error.get_first_failure()[1].exitcode)
        return 128 - code if code < 0 else code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
