"""Asks Slurm for the states of jobs, where there is a Slurm."""

import re
import shutil
import subprocess
from collections.abc import Iterable

_WAIT_SECONDS = 10
_MOST_JOBS = 1000


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """Returns the state of each job that waits or runs, e.g. `{"1234": "PENDING"}`.

    Jobs that have ended are missing. Without a Slurm that answers, the result is empty.
    """
    numbers = sorted({job for job in jobs if re.fullmatch("[0-9]{1,18}", job)})[-_MOST_JOBS:]
    if not numbers or shutil.which("squeue") is None:
        return {}
    # Slurm refuses an only job that has ended; of several, it leaves the ended ones out. %A is the
    # number that a task of an array has in SLURM_JOB_ID.
    command = ["squeue", "--noheader", "--format=%A %T", f"--jobs={','.join(numbers)}"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_WAIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    pairs = (line.split() for line in answer.stdout.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0] in numbers}
