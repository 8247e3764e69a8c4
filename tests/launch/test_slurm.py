"""`nearfar submit` for real: two nodes of a Slurm cluster on this machine train one model."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import nearfar

REPOSITORY = Path(__file__).parents[2]

STEPS = 40
"""Steps of a run that is preempted on its way."""
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
        if kind is not None:
            options += ["--machine", f"launch/accelerate/cpu-2-{kind}.yaml", "--nodes", 2]
        arguments = ["--slurm", profile, *options, *words]
        return nearfar("submit", *arguments, folder=REPOSITORY, environment=slurm)

    return run


@pytest.fixture
def finish(submit, slurm, tmp_path):
    """A function that submits words, and returns the exit code of the job and what it printed."""

    def run(kind, *words, changes=()):
        job = number_of(submit(kind, *words, changes=changes))
        ended = wait_for(lambda: ENDED.search(state(slurm, job)), tmp_path)
        return int(ended[1]), output(tmp_path)

    return run


def number_of(result):
    """The number of the job that was submitted."""
    assert result.returncode == 0, result.stderr
    return re.search(r"job (\d+)", result.stdout)[1]


def state(slurm, job):
    """What Slurm knows of a job."""
    return asked(slurm, "scontrol", "show", "job", job)


def wait_for_requeue(slurm, job, folder):
    """Waits until a job can be started again. Slurm 22.05 fails a job that starts at once then."""
    requeued = re.compile(r"JobState=PENDING.*Restarts=1", re.DOTALL)
    wait_for(lambda: requeued.search(state(slurm, job)), folder)
    time.sleep(3)


def wait_for(condition, folder):
    """The first true value of the condition."""
    ends = time.monotonic() + 240
    while not (value := condition()):
        assert time.monotonic() < ends, output(folder)[-3000:]
        time.sleep(0.3)  # sbatch --wait looks every half minute only
    return value


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


def test_two_nodes_train_one_model(finish, toy_run):
    arguments, folder = toy_run
    code, printed = finish("zero2", "recipes/quickstart.yaml", *arguments)
    assert code == 0, printed[-3000:]
    assert "zero2 on 4 ranks" in printed
    assert printed.count("the model is in") == 1
    assert (folder / "model/model.safetensors").is_file()


def test_preempted_run_is_started_again_and_ends_like_an_uninterrupted_one(
    submit, finish, slurm, toy_run, tmp_path
):
    arguments, folder = toy_run
    words = ["recipes/quickstart.yaml", *arguments, f"optimization.max_steps={STEPS}"]
    code, printed = finish("ddp", *words, "name=uninterrupted")
    assert code == 0, printed[-3000:]
    job = number_of(submit("ddp", *words))
    log = folder / "log.jsonl"
    wait_for(lambda: log.exists() and '"step": 9,' in log.read_text(), tmp_path)
    asked(slurm, "scancel", "--signal=USR1", "--batch", job)
    wait_for_requeue(slurm, job, tmp_path)
    assert json.loads((folder / "status.json").read_text())["exit_code"] == 85
    assert 10 <= len(losses(folder)) < STEPS
    asked(slurm, "scontrol", "update", f"JobId={job}", "StartTime=now")
    ended = wait_for(lambda: ENDED.search(state(slurm, job)), tmp_path)
    assert ended[1] == "0", state(slurm, job) + output(tmp_path)[-3000:]
    other = folder.with_name("uninterrupted")
    assert losses(folder) == losses(other)
    assert len(losses(folder)) == STEPS
    weights = "model/model.safetensors"
    assert (folder / weights).read_bytes() == (other / weights).read_bytes()


def losses(folder):
    """The exact loss of each step, in the order of the log."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


def test_two_nodes_mine_together(finish, toy_run, toy_folder, tmp_path):
    pairs, mined = tmp_path / "pairs.jsonl", tmp_path / "mined"
    words = ["mine", toy_folder("bert"), pairs, "-o", mined, "--percent-of-positive", 0]
    code, printed = finish("ddp", *words)
    assert code == 0, printed[-3000:]
    assert printed.count("pairs with 7.0 negatives per query") == 1, printed[-3000:]
    assert len((mined / "train.jsonl").read_text().splitlines()) == 64


def test_mistake_that_every_node_finds_ends_the_job_at_once(finish, toy_run):
    """Were it the first node alone, the others would wait for it until they are killed, and the job
    end with 137.
    """
    arguments, folder = toy_run
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    start = time.monotonic()
    code, printed = finish("ddp", "recipes/quickstart.yaml", *arguments)
    assert code == 2, printed[-3000:]
    assert printed.count("contains files that are not a run") == 2
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
    assert "started again" not in printed
    assert code == 2, printed[-3000:]
    assert not folder.exists()


STAND_IN = """#!/usr/bin/env python3
import os, pathlib, signal, sys, time
signals = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: signals.append(number))
start = os.environ.get("SLURM_RESTART_COUNT", "0")
task, node = os.environ["SLURM_ARRAY_TASK_ID"], os.environ["SLURM_NODEID"]
pathlib.Path(sys.argv[0]).with_name(f"task{task}-node{node}-start{start}").touch()
end = time.time() + (60 if start == "0" else 0)
while time.time() < end and not signals:
    time.sleep(0.05)
os._exit(85 if signals else 0)  # a second signal must not change the code
"""


@pytest.fixture
def array(submit, slurm, toy_run, tmp_path):
    """Two tasks of an array on two nodes each, whose launchers only wait for a signal."""
    arguments, _ = toy_run
    python = tmp_path / "stand-in"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    sweep = ["--sweep", "seed=1,2"]
    words = ["recipes/quickstart.yaml", *arguments, *sweep]
    job = number_of(submit("ddp", *words, changes=[f"python={python}"]))
    wait_for(lambda: len(list(tmp_path.glob("task*"))) == 4, tmp_path)
    return job


def test_preempted_task_alone_is_started_again(array, slurm, tmp_path):
    """Its number is that of the whole array, if it is the last task that Slurm has started."""
    tasks = dict(re.findall(r"JobId=(\d+) .*?ArrayTaskId=(\d+)", state(slurm, array), re.DOTALL))
    task = tasks[array]
    asked(slurm, "scancel", "--signal=USR1", "--batch", f"{array}_{task}")
    wait_for_requeue(slurm, f"{array}_{task}", tmp_path)
    asked(slurm, "scontrol", "update", f"JobId={array}_{task}", "StartTime=now")
    wait_for((tmp_path / f"task{task}-node1-start1").exists, tmp_path)
    wait_for(lambda: "JobState=COMPLETED" in state(slurm, array), tmp_path)
    assert len(re.findall(r"Restarts=0", state(slurm, array))) == 1
    assert len(list(tmp_path.glob("task*"))) == 6
    asked(slurm, "scancel", array)


def test_cancelled_job_is_not_started_again(array, slurm, tmp_path):
    """Though its launchers save, and end with 85."""
    asked(slurm, "scancel", array)
    wait_for(lambda: output(tmp_path).count("ends with code 85") == 2, tmp_path)
    wait_for(lambda: state(slurm, array).count("JobState=CANCELLED") == 2, tmp_path)
    assert "is started again" not in output(tmp_path)


PIPELINE = """
name: two
stages:
  first:
    command: nearfar data check PAIRS --rejected ${bad}
    outputs: {bad: bad.jsonl}
  second:
    command: nearfar data check PAIRS --rejected ${bad}
    outputs: {bad: bad.jsonl}
    after: [first]
"""


def test_stages_of_a_pipeline_run_one_after_another(submit, slurm, toy_run, tmp_path):
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE.replace("PAIRS", str(tmp_path / "pairs.jsonl")))
    words = ["pipeline", file, f"output={tmp_path}/runs"]
    result = submit(None, *words)
    assert result.returncode == 0, result.stderr
    first, second = re.findall(r"job (\d+), two-(?:first|second);", result.stdout)
    assert f"Dependency=afterok:{first}" in state(slurm, second)
    wait_for(lambda: ENDED.search(state(slurm, second)), tmp_path)
    assert "ExitCode=0:0" in state(slurm, second), output(tmp_path)
    assert output(tmp_path).count("done in ") == 2
    assert submit(None, *words).returncode == 2, "all stages are done"
