"""S15: what Lightning does on its own under Slurm: nothing of it happens here, neither a pickle nor
a call of `scontrol`.
"""

import os
import signal

import pytest
from killable import Command, Run


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signal_in_a_slurm_job_writes_no_pickle_and_requeues_nothing(tmp_path, toy_folder, number):
    programs, marker = tmp_path / "programs", tmp_path / "called"
    programs.mkdir()
    for name in ("scontrol", "srun", "scancel"):
        program = programs / name
        program.write_text(f"#!/bin/sh\necho $0 $@ >>{marker}\n")
        program.chmod(0o755)
    slurm = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NAME": "job",
        "SLURM_NTASKS": "1",
        "SLURM_NNODES": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", "optimization.max_steps=400")
    command = Command(*run.words("a"), environment=slurm)
    log = run.path("a") / "log.jsonl"
    command.wait_for(lambda: log.exists() and '"step": 5,' in log.read_text())
    command.send(number)
    assert command.wait() == [85], command.text()[-3000:]
    assert not marker.exists(), marker.read_text()
    names = [path.name for path in run.path("a").rglob("*")]
    assert not [name for name in names if name.endswith((".ckpt", ".pt", ".pth", ".bin", ".pkl"))]
    assert run.attempts("a")[0]["job"] == "77"
