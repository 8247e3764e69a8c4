"""The rank of this process from the variables of its launcher, before the process group is started.

Imports no torch.
"""

import time
from collections.abc import Mapping

OTHER_RANK_SECONDS, CONSEQUENCE_SECONDS = 3.0, 8.0
"""Delay of errors of ranks other than 0, and of ranks that lost the connection to another one."""


def is_first_rank(environ: Mapping[str, str]) -> bool:
    """Returns True for rank 0, the process that prints."""
    return int(environ.get("RANK", environ.get("SLURM_PROCID", "0"))) == 0


def local_rank(environ: Mapping[str, str]) -> int:
    """Returns the number of this process among those of its node, from 0.

    It is 0 if the variable is missing, as for a single process.
    """
    return int(environ.get("LOCAL_RANK", "0"))


def srun_counts(environ: Mapping[str, str]) -> tuple[int, int]:
    """Returns the numbers of ranks and nodes for ranks that srun has started.

    With `srun --gpus-per-task=1`, each rank sees its own GPU alone, as number 0. Each then counts
    as the only rank of a node, since libraries take the number of a rank on its node for that of
    its GPU.
    """
    ranks = int(environ["SLURM_STEP_NUM_TASKS"])
    gpus = environ.get("CUDA_VISIBLE_DEVICES", "")
    has_own_gpu = gpus != "" and "," not in gpus
    return ranks, ranks if has_own_gpu else int(environ.get("SLURM_STEP_NUM_NODES", "1"))


def wait_to_speak(environ: Mapping[str, str], is_consequence: bool) -> None:
    """Waits until the error of this rank should be printed.

    A launcher ends all ranks as soon as one has ended, so the rank that prints first is the one
    that is read. An error of this rank comes first, on rank 0 at once. An error that only says that
    another rank has failed comes last. `is_consequence` says which of the two this is.
    """
    seconds = 0.0 if is_first_rank(environ) else OTHER_RANK_SECONDS
    time.sleep(seconds + (CONSEQUENCE_SECONDS if is_consequence else 0.0))
