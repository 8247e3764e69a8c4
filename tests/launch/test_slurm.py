"""`launch/slurm/fit.sbatch` for real: two nodes of a Slurm cluster on this machine train one
model.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

WAIT_SECONDS = 60
"""How long `fit.sbatch` lets the other nodes go on when one has failed."""

pytestmark = pytest.mark.slow


@pytest.fixture
def profile(tmp_path):
    """A profile of our own: this Python, and cores that the two nodes do not fight over."""
    file = tmp_path / "test.env"
    file.write_text(f"PYTHON={sys.executable}\nexport OMP_NUM_THREADS=1\n")
    return file


def submit(slurm, profile, machine, arguments):
    """(exit code of the job, what it printed): the script as a user submits it, on two nodes
    without GPUs.
    """

    def asked(*command):
        return subprocess.run(
            command,
            cwd=REPOSITORY,
            env=slurm | {"PROFILE": str(profile)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    output = profile.parent / "job.out"
    script = ["launch/slurm/fit.sbatch", machine, *arguments]
    job = asked(
        "sbatch", "--parsable", "--nodes=2", "--gpus-per-node=0", f"--output={output}", *script
    ).strip()
    ends = time.monotonic() + 240
    while not (
        ended := re.search(
            r"JobState=(?:COMPLETED|FAILED|CANCELLED|TIMEOUT) .*?ExitCode=(\d+)",
            asked("scontrol", "show", "job", job),
            re.DOTALL,
        )
    ):
        assert time.monotonic() < ends, (
            output.read_text()[-3000:] if output.exists() else "the job did not start"
        )
        time.sleep(0.3)  # sbatch --wait looks every half minute only
    return int(ended[1]), output.read_text()


@pytest.mark.parametrize("kind", ["ddp", "zero2"])
def test_two_nodes_train_one_model(kind, slurm, profile, toy_run):
    arguments, folder = toy_run
    code, output = submit(
        slurm,
        profile,
        f"launch/accelerate/cpu-2-{kind}.yaml",
        ["recipes/quickstart.yaml", *arguments],
    )
    assert code == 0, output[-3000:]
    assert f"{kind} on 4 ranks" in output
    assert output.count("the model is in") == 1
    assert (folder / "model/model.safetensors").is_file()


def test_two_nodes_mine_together(slurm, profile, toy_run, toy_folder, tmp_path):
    words = [
        "mine",
        str(toy_folder("bert")),
        str(tmp_path / "pairs.jsonl"),
        "-o",
        str(tmp_path / "mined"),
        "--percent-of-positive",
        "0",
    ]
    code, output = submit(slurm, profile, "launch/accelerate/cpu-2-ddp.yaml", words)
    assert code == 0, output[-3000:]
    assert output.count("pairs with 7.0 negatives per query") == 1, output[-3000:]
    assert len((tmp_path / "mined" / "train.jsonl").read_text().splitlines()) == 64


def test_mistake_ends_the_job_with_code_2(slurm, profile, toy_run):
    arguments, folder = toy_run
    code, output = submit(
        slurm,
        profile,
        "launch/accelerate/cpu-2-ddp.yaml",
        ["recipes/quickstart.yaml", *arguments, "optimization.batch_size=10"],
    )
    assert code == 2
    assert "batch_size=10 cannot be cut into 4 equal parts" in output
    assert "Traceback" not in output
    assert not folder.exists()


def test_existing_run_ends_the_job_at_once(slurm, profile, toy_run):
    """Every node looks: were it the first alone, the others would wait for it until they are
    killed, and the job end with 137.
    """
    arguments, folder = toy_run
    folder.mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    start = time.monotonic()
    code, output = submit(
        slurm, profile, "launch/accelerate/cpu-2-ddp.yaml", ["recipes/quickstart.yaml", *arguments]
    )
    assert code == 2, output[-3000:]
    assert "pass --replace" in output
    assert time.monotonic() - start < WAIT_SECONDS


def test_exit_code_is_that_of_the_node_which_failed_first(slurm, profile, toy_run):
    """The other waits for it in vain, is killed, and so has a code of its own."""
    arguments, folder = toy_run
    python = profile.with_name("python")
    python.write_text(
        '#!/usr/bin/env bash\n[ "$SLURM_NODEID" = 0 ] || { echo "no GPU here"; exit 2; }\nexec'
        f' {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    profile.write_text(f"PYTHON={python}\nSRUN_OPTIONS=(--wait=10)\n")
    code, output = submit(
        slurm, profile, "launch/accelerate/cpu-2-ddp.yaml", ["recipes/quickstart.yaml", *arguments]
    )
    assert "no GPU here" in output
    assert "Terminating" in output, "the other node waited"
    assert code == 2, output[-3000:]
    assert not folder.exists()
