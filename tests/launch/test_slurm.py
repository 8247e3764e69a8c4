"""`nearfar submit` for real: two nodes of a Slurm cluster on this machine train one model."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import nearfar

REPOSITORY = Path(__file__).parents[2]

WAIT_SECONDS = 60
"""How long a job lets the other nodes go on when one has failed."""
ENDED = re.compile(r"JobState=(?:COMPLETED|FAILED|CANCELLED|TIMEOUT) .*?ExitCode=(\d+)", re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture
def submit(slurm, tmp_path):
    """A function that submits words on two nodes without GPUs, and returns what `nearfar submit`
    returned.

    The profile has this Python, and cores that the two nodes do not fight over.
    """
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        f"python: {sys.executable}\nlog_folder: {tmp_path}/logs\ntime_limit: 1:00:00\n"
        f"environment: {{OMP_NUM_THREADS: 1, PYTHONPATH: {REPOSITORY}}}\n"
    )

    def run(kind, *words, changes=()):
        options = [word for change in changes for word in ("--set", change)]
        machine = f"launch/accelerate/cpu-2-{kind}.yaml"
        arguments = ["--machine", machine, "--slurm", profile, "--nodes", 2, *options, *words]
        return nearfar("submit", *arguments, folder=REPOSITORY, environment=slurm)

    return run


@pytest.fixture
def finish(submit, slurm, tmp_path):
    """A function that submits words, and returns the exit code of the job and what it printed."""

    def run(kind, *words, changes=()):
        result = submit(kind, *words, changes=changes)
        assert result.returncode == 0, result.stderr
        job = re.search(r"job (\d+)", result.stdout)[1]
        ends = time.monotonic() + 240
        while not (ended := ENDED.search(asked(slurm, "scontrol", "show", "job", job))):
            assert time.monotonic() < ends, output(tmp_path)[-3000:]
            time.sleep(0.3)  # sbatch --wait looks every half minute only
        return int(ended[1]), output(tmp_path)

    return run


def asked(slurm, *command):
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout


def output(folder):
    """What all jobs printed."""
    return "".join(file.read_text() for file in sorted(folder.glob("logs/*.out")))


def test_job_that_slurm_refuses_is_not_submitted(submit, slurm, toy_run, tmp_path):
    arguments, _ = toy_run
    words = ["recipes/quickstart.yaml", *arguments]
    for more in ([], ["--dry-run"]):
        result = submit("ddp", *words, *more, changes=["partition=none"])
        assert (result.returncode, result.stdout) == (2, "")
        assert "invalid partition specified: none" in result.stderr
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("kind", ["ddp", "zero2"])
def test_two_nodes_train_one_model(kind, finish, toy_run):
    arguments, folder = toy_run
    code, printed = finish(kind, "recipes/quickstart.yaml", *arguments)
    assert code == 0, printed[-3000:]
    assert f"{kind} on 4 ranks" in printed
    assert printed.count("the model is in") == 1
    assert (folder / "model/model.safetensors").is_file()


def test_two_nodes_mine_together(finish, toy_run, toy_folder, tmp_path):
    pairs, mined = tmp_path / "pairs.jsonl", tmp_path / "mined"
    words = ["mine", toy_folder("bert"), pairs, "-o", mined, "--percent-of-positive", 0]
    code, printed = finish("ddp", *words)
    assert code == 0, printed[-3000:]
    assert printed.count("pairs with 7.0 negatives per query") == 1, printed[-3000:]
    assert len((mined / "train.jsonl").read_text().splitlines()) == 64


def test_existing_run_ends_the_job_at_once(finish, toy_run):
    """Every node looks: were it the first alone, the others would wait for it until they are
    killed, and the job end with 137.
    """
    arguments, folder = toy_run
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    start = time.monotonic()
    code, printed = finish("ddp", "recipes/quickstart.yaml", *arguments)
    assert code == 2, printed[-3000:]
    assert "pass --replace" in printed
    assert time.monotonic() - start < WAIT_SECONDS


def test_exit_code_is_that_of_the_node_which_failed_first(finish, toy_run, tmp_path):
    """The other waits for it in vain, is killed, and so has a code of its own."""
    arguments, folder = toy_run
    python = tmp_path / "python"
    python.write_text(
        '#!/usr/bin/env bash\n[ "$SLURM_NODEID" = 0 ] || { echo "no GPU here"; exit 2; }\nexec'
        f' {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    changes = [f"python={python}", "wait_seconds=10"]
    code, printed = finish("ddp", "recipes/quickstart.yaml", *arguments, changes=changes)
    assert "no GPU here" in printed
    assert "Terminating" in printed, "the other node waited"
    assert code == 2, printed[-3000:]
    assert not folder.exists()
