"""The process group of a run: started before anything needs it, ended without leaving anyone
waiting.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import distributed

from trainer.strategies.environment import Plan
from trainer.strategies.own_rank import local_rank


@contextmanager
def process_group(plan: Plan, device: str) -> Iterator[None]:
    """Inside, `torch.distributed` is ready (gloo on a CPU, NCCL on GPUs), and Lightning and
    DeepSpeed use it as it is. Nothing for a single process.

    At the end all ranks wait for the last one. After an error nobody waits: a rank that still does
    is told by the closed connection.
    """
    if plan.kind == "single":
        yield
        return
    os.environ.update(names_of_srun(os.environ))
    if device == "cuda":
        here = torch.device("cuda", local_rank(os.environ))
        torch.cuda.set_device(here)
        distributed.init_process_group("nccl", device_id=here)
    else:
        distributed.init_process_group("gloo")
    try:
        yield
        distributed.barrier()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def names_of_srun(environ: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables for ranks that srun started itself; empty where they are set already.

    The first node of the job is where all meet, at a port made of the job's number.
    """
    if "RANK" in environ or "SLURM_PROCID" not in environ:
        return {}
    return {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "GROUP_RANK": environ["SLURM_NODEID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": str(
            int(environ["SLURM_STEP_NUM_TASKS"]) // int(environ.get("SLURM_STEP_NUM_NODES", "1"))
        ),
        "MASTER_ADDR": environ.get(
            "MASTER_ADDR", first_host(environ.get("SLURM_STEP_NODELIST", socket.gethostname()))
        ),
        "MASTER_PORT": environ.get(
            "MASTER_PORT", str(15000 + int(environ.get("SLURM_JOB_ID", "0")) % 20000)
        ),
    }


def first_host(nodes: str) -> str:
    """The first of Slurm's list of hosts.

    >>> first_host("gpu[007-009,012],login"), first_host("n1,n2"), first_host("n1")
    ('gpu007', 'n1', 'n1')
    """
    name, bracket, rest = nodes.partition("[")
    return (
        name + rest.split("]")[0].split(",")[0].split("-")[0]
        if bracket and "," not in name
        else nodes.split(",")[0]
    )
