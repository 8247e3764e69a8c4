"""The rank of this process, as its launcher exported it: known before anything is started.

Imports no torch.
"""

import time
from collections.abc import Mapping


def is_first_rank(environ: Mapping[str, str]) -> bool:
    """Whether this process is rank 0, the one that prints."""
    return int(environ.get("RANK", environ.get("SLURM_PROCID", "0"))) == 0


def local_rank(environ: Mapping[str, str]) -> int:
    """The number of this process among those of its node, from 0.

    A launcher of a single process exports none.
    """
    return int(environ.get("LOCAL_RANK", "0"))


def let_first_rank_speak(environ: Mapping[str, str], patience_seconds: float = 10.0) -> None:
    """Returns at once on rank 0; on the others after `patience_seconds`. Call it before an error is
    printed.

    A launcher ends all ranks as soon as one has failed. If another rank were faster, rank 0 could
    be ended before it has printed its error. A rank that is still alive after the wait has an error
    that rank 0 did not meet, and prints it.
    """
    if not is_first_rank(environ):
        time.sleep(patience_seconds)
