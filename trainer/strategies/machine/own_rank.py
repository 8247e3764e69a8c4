"""The rank of this process from the variables of its launcher, before the process group is started.

Imports no torch.
"""

import time
from collections.abc import Mapping


def is_first_rank(environ: Mapping[str, str]) -> bool:
    """Returns True for rank 0, the process that prints."""
    return int(environ.get("RANK", environ.get("SLURM_PROCID", "0"))) == 0


def local_rank(environ: Mapping[str, str]) -> int:
    """Returns the number of this process among those of its node, from 0.

    It is 0 if the variable is missing, as for a single process.
    """
    return int(environ.get("LOCAL_RANK", "0"))


def let_first_rank_speak(environ: Mapping[str, str], patience_seconds: float = 10.0) -> None:
    """Waits `patience_seconds` on all ranks except rank 0. It is called before an error is printed.

    A launcher ends all ranks as soon as one has failed. Without the wait, rank 0 could be ended
    before it has printed its error. A rank that still runs after the wait has an error that rank 0
    does not have, and prints it.
    """
    if not is_first_rank(environ):
        time.sleep(patience_seconds)
