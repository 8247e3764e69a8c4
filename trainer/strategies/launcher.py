"""Starts the ranks of a run by `accelerate launch`, which is called in this process."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import BadMachine
from trainer.strategies.machine.machine_file import plan_from_file
from trainer.strategies.machine.plan import Plan, check_requirements

if TYPE_CHECKING:
    from accelerate.commands.config.config_args import ClusterConfig

PORT = 29500
"""Default port at which the ranks of several nodes connect."""
SHUTDOWN_SECONDS = 600
"""Seconds after a signal in which the ranks finish their step and save, before they are killed."""
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""Signals that the launcher passes on to the ranks. SIGUSR1 would end it otherwise."""


@dataclass(frozen=True)
class Launch:
    """How one node starts its ranks."""

    machine: Path
    plan: Plan
    node_rank: int = 0
    host: str | None = None
    """Host at which the ranks of all nodes connect; None on one node, where accelerate chooses."""
    port: int | None = None

    def start(self, words: Sequence[str]) -> int:
        """Runs `nearfar` with these words on the ranks of this node; returns the exit code."""
        os.environ.update(rank_environment(self.plan, os.environ))
        return run_ranks([*self.options(), "--module", "trainer", *words])

    def prepare_single_process(self) -> None:
        """Sets the variables in this process that accelerate would export to a single process."""
        os.environ.update(_device_environment(self.plan))
        os.environ["ACCELERATE_MIXED_PRECISION"] = self.plan.precision or "no"

    def options(self) -> list[str]:
        """Returns options of `accelerate launch` in addition to those of the machine file."""
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
    """Returns the launch on this node. Starts nothing.

    `nodes` replaces the number of nodes in the machine file, with the same processes per node.
    Raises BadMachine if this machine does not meet the requirements of the file, or if the address
    of the nodes is missing.
    """
    plan = plan_from_file(machine)
    check_requirements(plan)
    accelerate_config = read_by_accelerate(machine)
    plan = on_nodes(plan, machine, nodes or plan.nodes, accelerate_config.distributed_type)
    usual_port = accelerate_config.main_process_port or PORT
    host, port = _meeting_point(plan, node_rank, main_address, usual_port)
    return Launch(machine, plan, node_rank or 0, host, port)


def on_nodes(plan: Plan, machine: Path, nodes: int, distributed_type: str) -> Plan:
    """Returns the plan with the same processes on each of `nodes`.

    Raises BadMachine for several nodes if the file is for one process.
    """
    if nodes > 1 and distributed_type == "NO":
        raise BadMachine(
            f"{machine} starts one process, which cannot be on {nodes} nodes; use a file for"
            " several processes, e.g. launch/accelerate/ddp.yaml"
        )
    one_per_node = nodes > 1 and plan.kind == "single"  # one GPU on each node, of a file for DDP
    kind = "ddp" if one_per_node else plan.kind
    return replace(plan, nodes=nodes, ranks=nodes * plan.ranks_per_node, kind=kind)


def _meeting_point(
    plan: Plan, node_rank: int | None, main_address: str | None, usual_port: int
) -> tuple[str | None, int | None]:
    """Returns host and port at which the ranks of all nodes connect, or None twice on one node."""
    if plan.nodes == 1 and not node_rank:
        return None, None
    if node_rank is None or main_address is None:
        raise BadMachine(
            f"{plan.nodes} nodes: start this on each of them, with --node-rank 0 to"
            f" {plan.nodes - 1} and --main-address HOST (the name of node 0); under Slurm"
            " `nearfar submit` does it"
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
    """Returns the environment of the ranks of a node.

    It divides the cores among the ranks. It also contains the device of the machine file, which
    accelerate exports only to a single process.
    """
    threads = str(max(1, _cores() // plan.ranks_per_node))
    defaults = {
        "OMP_NUM_THREADS": threads,
        "RAYON_NUM_THREADS": threads,  # of the tokenizer
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS),
        "PET_SIGNALS_TO_HANDLE": SIGNALS,  # torchrun reads its options from PET_*
    }
    return {**defaults, **environ, **_device_environment(plan)}


def _device_environment(plan: Plan) -> dict[str, str]:
    return {"ACCELERATE_USE_CPU": str(plan.accelerator == "cpu")} if plan.accelerator else {}


def _cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_by_accelerate(machine: Path) -> "ClusterConfig":
    """Reads the file with accelerate, which checks keys more strictly than Nearfar."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        return load_config_from_file(str(machine))
    except (ValueError, TypeError) as error:
        raise BadMachine(f"accelerate cannot use {machine}: {error}") from error


def run_ranks(arguments: list[str]) -> int:
    """Runs `accelerate launch` in this process and returns the exit code of the run.

    It is the exit code of the first rank that failed, otherwise 0. The command itself would return
    1 for every failure and print its own traceback. A signal that ends the launcher (Ctrl-C) is
    forwarded to every rank. When all have ended, the exit code is 128 + its number.
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
