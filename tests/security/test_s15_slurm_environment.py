"""S15: what Lightning does by itself under Slurm cannot happen: no pickled checkpoint, no requeue
through a shell, and no process layout from Slurm's variables.
"""

import os
import signal

import pytest
from killable import Command, Run
from pytorch_lightning.plugins.environments import SLURMEnvironment

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "training",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_JOB_NODELIST": "n1",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_PROCID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_RESTART_COUNT": "0",
}


@pytest.fixture
def cluster(tmp_path):
    """Slurm's variables, and programs of Slurm that leave a mark."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("scontrol", "srun", "scancel"):
        program = programs / name
        program.write_text(f'#!/bin/sh\necho "$0 $@" >> {tmp_path / "called"}\n')
        program.chmod(0o755)
    return {**SLURM, "PATH": f"{programs}:{os.environ['PATH']}"}


def test_s15_lightning_would_take_these_variables_for_slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert SLURMEnvironment.detect()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_s15_signal_under_slurm_saves_our_checkpoint_alone(tmp_path, toy_folder, cluster, number):
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", "optimization.max_steps=400")
    command = Command(*run.words("a"), environment=cluster)
    run.wait_for_step(command, "a", 6)
    command.send(number)
    assert command.wait() == [85], command.text()
    assert (run.path("a") / "checkpoints" / "latest").exists()
    assert not (tmp_path / "called").exists()
    assert run.attempts("a")[0]["job"] == SLURM["SLURM_JOB_ID"]
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".ckpt", ".pt", ".pth", ".bin", ".pkl"))]
    for path in tmp_path.rglob("*"):
        if path.is_file() and toy_folder("bert") not in path.parents:
            start = path.read_bytes()[:4]
            assert not start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")), path
