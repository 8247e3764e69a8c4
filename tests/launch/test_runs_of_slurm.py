"""`nearfar runs` asks a real Slurm whether a preempted run waits or runs again."""

import json
import subprocess
import time

import pytest

from trainer.runs.job_states import job_states
from trainer.runs.overview import read_overviews

pytestmark = pytest.mark.slow


@pytest.fixture
def ask(slurm, monkeypatch):
    """A function that runs a command of Slurm, and returns what it prints."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm[name])
    return lambda *words: subprocess.run(
        words, capture_output=True, text=True, check=True
    ).stdout.strip()


def wait_until(is_reached):
    ends = time.monotonic() + 60
    while not is_reached():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_state_of_the_job_counts(ask, tmp_path):
    script = ("--output=/dev/null", "--wrap=sleep 600")
    job = ask("sbatch", "--parsable", "--hold", "--array=3", *script)
    (tmp_path / "environment.json").write_text("{}")

    def overview(**values):
        start = {
            "started": "2026-01-02T03:04:05+00:00",
            "job": job,
            "command": "nearfar fit a.yaml",
        }
        (tmp_path / "attempts.json").write_text(json.dumps([start, {**start, **values}]))
        (overview,) = read_overviews(tmp_path)
        return overview

    waiting = overview(status="preempted", exit_code=85)
    assert (waiting.state, waiting.resume_count) == ("waiting", 1)
    assert waiting.reason == f"Slurm job {job} is PENDING"
    assert waiting.next_command is None
    assert overview().state == "waiting"
    assert overview(status="done").state == "done"
    assert job_states([job, "--help", "1;2", "\u0663", "", "999999"]) == {job: "PENDING"}
    assert job_states(["999999"]) == {}

    ask("scontrol", "release", job)
    wait_until(lambda: overview(status="preempted").state == "running")
    ask("scancel", job)
    wait_until(lambda: overview(status="preempted").state == "preempted")
    assert overview().state == "killed"
    assert overview().next_command == "nearfar fit a.yaml --resume"
