"""Checks a job against its machine file and Slurm, and submits it."""

import shutil
import subprocess
from pathlib import Path

from trainer.errors import BadJob
from trainer.slurm.profile import Profile
from trainer.strategies.launcher import on_nodes
from trainer.strategies.machine.machine_file import make_plan, read_machine_file
from trainer.strategies.machine.plan import Plan

PATIENCE_SECONDS = 120
"""Seconds in which Slurm must answer."""


def plan_job(machine: Path, profile: Profile, nodes: int | None) -> Plan:
    """Returns the plan of a machine file on the nodes of a cluster, which may have other GPUs than
    this machine.

    Raises BadMachine or BadJob if the file does not fit the profile.
    """
    file = dict(read_machine_file(machine))
    if file.get("num_processes") == "auto":
        if not profile.gpus_per_node:
            raise BadJob(
                f"{machine} starts one process per GPU (num_processes: auto), but the profile has"
                " gpus_per_node: 0; set it, or take a file with a number of processes, e.g."
                " launch/accelerate/cpu-2-ddp.yaml"
            )
        file["num_processes"] = profile.gpus_per_node * int(file.get("num_machines") or 1)
        file.setdefault("use_cpu", None)  # as for `auto`: any device
    plan = make_plan(file, str(machine))
    kind = str(file["distributed_type"] or "NO").upper()
    plan = on_nodes(plan, machine, nodes or plan.nodes, kind)
    if plan.accelerator == "cuda" and profile.gpus_per_node < plan.ranks_per_node:
        raise BadJob(
            f"{machine} starts {plan.ranks_per_node} processes on GPUs of each node, but the"
            f" profile asks for gpus_per_node: {profile.gpus_per_node}; make them equal, e.g. --set"
            f" gpus_per_node={plan.ranks_per_node}"
        )
    return plan


def check_python(profile: Profile, folder: Path) -> None:
    """Raises BadJob if the Python of the profile is a path that does not exist."""
    is_path = "/" in profile.python and profile.container is None
    if is_path and not (folder / profile.python).exists():
        raise BadJob(
            f"python: there is no {profile.python} in {folder}; submit from the folder that has it,"
            " or give its path, e.g. --set python=/shared/venv/bin/python"
        )


def check_script(script: str) -> None:
    """Raises BadJob if bash cannot read the script."""
    if (result := _run(["bash", "-n"], script)).returncode:
        raise BadJob(
            f"bash cannot read the script: {result.stderr.strip()}; please report this bug"
        )


def has_cluster() -> bool:
    """Returns True if this machine has `sbatch`, and a cluster answers."""
    return shutil.which("sbatch") is not None and not _run(["scontrol", "ping"]).returncode


def check_by_slurm(script: str) -> None:
    """Raises BadJob if Slurm would refuse the script. Submits nothing."""
    if shutil.which("sbatch") is None:
        raise BadJob(
            "there is no sbatch on this machine, so no job can be submitted; run this on a login"
            " node of the cluster, or print the script with --dry-run"
        )
    if (result := _run(["sbatch", "--test-only"], script)).returncode:
        raise BadJob(
            f"Slurm refuses this job: {result.stderr.strip()}; correct the profile, or change a"
            " key with --set KEY=VALUE"
        )


def submit_script(script: str, log_folder: Path) -> str:
    """Submits the script and returns the number of the job. Raises BadJob."""
    check_by_slurm(script)
    log_folder.mkdir(parents=True, exist_ok=True)  # without it Slurm ends the job without a word
    result = _run(["sbatch", "--parsable"], script)
    if result.returncode:
        raise BadJob(f"the job is not submitted: {result.stderr.strip()}")
    return result.stdout.strip().partition(";")[0]  # the name of the cluster may follow


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadJob(f"{command[0]} cannot be used: {error}") from error
