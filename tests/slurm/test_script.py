"""The batch script: what sbatch is asked, and what the same code does with each end of a run."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.errors import BadJob
from trainer.slurm.profile import Container, Profile
from trainer.slurm.script import BatchJob, render

JOB = BatchJob("toy", 2, ("launch", "--machine", "m.yaml", "recipe.yaml"), folder=Path("/work"))


def options(job: BatchJob, profile: Profile) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", render(job, profile), re.MULTILINE)
    return dict(lines)


def test_sbatch_gets_the_keys_of_the_profile() -> None:
    profile = Profile(
        account="lab", partition="gpu,long", qos="high", reservation="r1", constraint="a100|h100",
        gpus_per_node=4, gpu_type="h100", cpus_per_task=8, memory="64G", time_limit="1-0",
        exclusive=True, log_folder="out", options={"mail-type": "END"}, signal_seconds=600,
    )  # fmt: skip
    assert options(JOB, profile) == {
        "job-name": "toy", "account": "lab", "partition": "gpu,long", "qos": "high",
        "reservation": "r1", "constraint": "a100|h100", "nodes": "2", "ntasks-per-node": "1",
        "gpus-per-node": "h100:4", "cpus-per-task": "8", "mem": "64G", "exclusive": "",
        "time": "1-0", "signal": "B:USR1@600", "requeue": "", "output": "out/%x-%j.out",
        "open-mode": "append", "mail-type": "END",
    }  # fmt: skip


def test_sweep_is_an_array_and_waits_for_other_jobs() -> None:
    job = replace(JOB, sweep=(("seed=1",), ("seed=2",)), dependencies=("12", "13_4"))
    asked = options(job, Profile(requeue=False))
    assert (asked["array"], asked["output"]) == ("0-1", "logs/%x-%A_%a.out")
    assert (asked["dependency"], asked["kill-on-invalid-dep"]) == ("afterok:12:13_4", "yes")
    assert "no-requeue" in asked
    assert "requeue" not in asked


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (replace(JOB, name="a;b"), "'a;b' cannot be the name of a job"),
        (replace(JOB, name="-x"), "cannot be the name of a job"),
        (replace(JOB, name=""), "cannot be the name of a job"),
        (replace(JOB, dependencies=("1;2",)), "--after '1;2' is not the number of a job"),
        (replace(JOB, words=("a=\x1b[2J",)), "has a line break or another character"),
        (replace(JOB, sweep=(("a=\n",),)), "has a line break or another character"),
    ],
)
def test_impossible_job_is_refused(job: BatchJob, message: str) -> None:
    with pytest.raises(BadJob, match=re.escape(message)):
        render(job, Profile())


def test_container_cannot_mount_a_folder_with_a_comma() -> None:
    profile = Profile(container=Container(image="x"))
    with pytest.raises(BadJob, match="cannot mount /a,b"):
        render(replace(JOB, folder=Path("/a,b")), profile)


SRUN = """#!/usr/bin/env bash
for code in $CODES; do  # one node after another
    while [[ $1 != env ]]; do shift; done
    SLURM_NODEID=$code "$@"
done
exit "$SRUN_CODE"
"""
PROGRAMS = {
    "srun": SRUN,
    "python": '#!/bin/sh\nexit "$5"\n',  # -m trainer launch --node-rank CODE ...
    "scontrol": '#!/bin/sh\n[ "$1" = requeue ] && echo "requeue $2" >>calls\necho node1\n',
    "squeue": '#!/bin/sh\necho "$STATE"\n',
}


def run(folder: Path, profile: Profile, job: BatchJob = JOB, **variables: str) -> tuple[int, str]:
    """(exit code of the script, what it asked of scontrol), with programs that stand for Slurm."""
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "node1",
        "STATE": "RUNNING",
        "CODES": "0",
        **variables,
    }
    environment.setdefault("SRUN_CODE", max(environment["CODES"].split(), key=int, default="0"))
    script = render(replace(job, folder=folder), profile)
    bash = subprocess.run(["bash"], input=script, env=environment, text=True, capture_output=True)
    calls = folder / "calls"
    return bash.returncode, calls.read_text() if calls.exists() else ""


PYTHON = Profile(python="python")


def test_stage_of_a_pipeline_gets_no_node_and_no_address(tmp_path: Path) -> None:
    job = BatchJob("x", 1, ("pipeline", "--only", "3"))
    assert run(tmp_path, PYTHON, job) == (3, "")


@pytest.mark.parametrize("code", ["0", "1", "2", "86", "87", "88", "89", "137"])
def test_other_codes_end_the_job_and_are_not_requeued(code: str, tmp_path: Path) -> None:
    assert run(tmp_path, PYTHON, CODES=code) == (int(code), "")


def test_preempted_job_is_requeued(tmp_path: Path) -> None:
    assert run(tmp_path, PYTHON, CODES="85") == (85, "requeue 7\n")


def test_only_the_task_of_an_array_is_requeued(tmp_path: Path) -> None:
    """The number of an array's last task is that of the whole array."""
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert run(tmp_path, PYTHON, CODES="85", **task) == (85, "requeue 7_3\n")


def test_cancelled_job_is_not_requeued(tmp_path: Path) -> None:
    """Slurm would start a job again that its user has just cancelled."""
    assert run(tmp_path, PYTHON, CODES="85", STATE="COMPLETING") == (85, "")


def test_job_is_requeued_a_limited_number_of_times(tmp_path: Path) -> None:
    profile = Profile(python="python", max_requeues=3)
    assert run(tmp_path, profile, CODES="85", SLURM_RESTART_COUNT="3") == (85, "")
    assert run(tmp_path, profile, CODES="85", SLURM_RESTART_COUNT="2") == (85, "requeue 7\n")


def test_profile_can_forbid_the_requeue(tmp_path: Path) -> None:
    assert run(tmp_path, Profile(python="python", requeue=False), CODES="85") == (85, "")


def test_job_ends_with_the_code_of_the_node_that_failed_first(tmp_path: Path) -> None:
    assert run(tmp_path, PYTHON, CODES="2 85 137") == (2, "")


def test_srun_that_cannot_start_ends_the_job_with_its_code(tmp_path: Path) -> None:
    assert run(tmp_path, PYTHON, CODES="", SRUN_CODE="1") == (1, "")


def test_missing_module_ends_the_job(tmp_path: Path) -> None:
    profile = Profile(python="python", modules=("no/such-module",))
    code, calls = run(tmp_path, profile)
    assert (code != 0, calls) == (True, "")
