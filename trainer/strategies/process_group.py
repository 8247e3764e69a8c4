"""Starts the process group of a run, and ends it without leaving a rank waiting."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from trainer.collectives import Control
from trainer.errors import OtherRankFailed
from trainer.stopping import in_step
from trainer.strategies.machine.own_rank import local_rank, srun_counts
from trainer.strategies.machine.plan import Plan

CONTROL_TIMEOUT = timedelta(days=7)
"""Time that a rank waits for an agreement. A rank that hangs is noticed by the watch instead."""


@contextmanager
def process_group(plan: Plan, device: str) -> Iterator[None]:
    """Initialises `torch.distributed` within the block (gloo on CPUs, NCCL on GPUs).

    Lightning and DeepSpeed use this group. A single process needs none. At the end all ranks wait
    for the last one. After an error no rank waits: the closed connection ends the others.
    """
    if plan.kind == "single":
        yield
        return
    os.environ.update(torchrun_variables(os.environ))
    if device == "cuda":
        own_device = torch.device("cuda", local_rank(os.environ))
        torch.cuda.set_device(own_device)
        distributed.init_process_group("nccl", device_id=own_device)
    else:
        distributed.init_process_group("gloo")
    Control.group = distributed.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
    try:
        with in_step():
            yield
        distributed.barrier(group=Control.group)
    except BaseException as error:
        # Ending an NCCL group in order would wait for the others, and hide the error.
        if device == "cuda" and distributed.is_initialized():
            distributed.distributed_c10d._abort_process_group()
        if isinstance(error, RuntimeError) and is_connection_lost(error):
            raise lost_rank() from error
        raise
    finally:
        Control.group = None
        if distributed.is_initialized():
            distributed.destroy_process_group()


def lost_rank() -> OtherRankFailed:
    """Returns the error to raise in place of one for which `is_connection_lost` holds."""
    return OtherRankFailed(
        "the connection to another rank was lost, because it has ended; its own message says why."
        " Continue with --resume"
    )


def is_connection_lost(error: RuntimeError) -> bool:
    """Returns whether an error of a collective says that another rank has ended."""
    text = str(error)
    return "onnection closed by peer" in text or "onnection reset by peer" in text


def default_store() -> Any:
    """Returns the store through which the ranks have found each other; None for one process."""
    if not distributed.is_initialized():
        return None
    return distributed.distributed_c10d._get_default_store()


def torchrun_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables for a rank that srun started; empty if they are set, or without srun.

    The ranks meet on the first node of the job, at a port that follows from the number of the job.
    """
    if "RANK" in environ or "SLURM_PROCID" not in environ:
        return {}
    ranks, nodes = srun_counts(environ)
    is_alone = ranks == nodes
    return {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": "0" if is_alone else environ["SLURM_LOCALID"],
        "GROUP_RANK": environ["SLURM_PROCID"] if is_alone else environ["SLURM_NODEID"],
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks // nodes),
        "MASTER_ADDR": environ.get(
            "MASTER_ADDR", first_host(environ.get("SLURM_STEP_NODELIST", socket.gethostname()))
        ),
        "MASTER_PORT": environ.get(
            "MASTER_PORT", str(15000 + int(environ.get("SLURM_JOB_ID", "0")) % 20000)
        ),
    }


def first_host(nodes: str) -> str:
    """Returns the first host in a list of nodes as Slurm writes it.

    >>> first_host("gpu[007-009,012],login"), first_host("n1,n2"), first_host("n1")
    ('gpu007', 'n1', 'n1')
    """
    name, bracket, numbers = nodes.partition("[")
    if not bracket or "," in name:
        return nodes.split(",")[0]
    return name + numbers.split("]")[0].split(",")[0].split("-")[0]
