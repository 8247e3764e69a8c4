"""R01, R33: SIGKILL at random instants, a fifth of them inside a save. The end is bitwise that of
an uninterrupted run, and its trackers have seen one run.
"""

import random
import signal
import time

import pytest
from killable import Command, Run, check_same

KILLS, SOAK_KILLS = 10, 200


def linger(rank):
    """A save takes long enough to be killed inside: between its files and its name."""
    from trainer.checkpoints import folder

    write_manifest = folder.write_manifest

    def write_late(*arguments):
        time.sleep(0.02)
        write_manifest(*arguments)
        time.sleep(0.02)

    folder.write_manifest = write_late


def kill(run, name, number):
    """Starts or continues the run and kills it: while it starts, inside a save, or in a step.

    Returns False if it ended before.
    """
    command = Command(*run.words(name, "--resume"), before=linger if number % 5 == 1 else None)
    checkpoints, log = run.path(name) / "checkpoints", run.path(name) / "log.jsonl"
    match number % 5:
        case 0:
            time.sleep(random.uniform(0.0, 0.6))
        case 1:
            while command.is_alive() and not [*checkpoints.glob(".step-*")]:
                time.sleep(0.0005)
            time.sleep(random.uniform(0.0, 0.04))
        case _:
            command.wait_for(lambda: not command.is_alive() or "pairs" in command.text())
            lines, more = _lines(log), random.randint(1, 8)
            while command.is_alive() and not lines < _lines(log) - more:
                lines = min(lines, _lines(log))  # the log is cut off where the run continues
                time.sleep(0.002)
    is_alive = command.is_alive()
    command.send(signal.SIGKILL)
    command.wait()
    return is_alive


def _lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def kill_often(run, kills):
    random.seed(1)
    words = run.words("whole")
    assert Command(*words).wait(1800) == [0]
    number = 0
    while number < kills:
        assert kill(run, "killed", number), f"the run was over after {number} kills"
        number += 1
    command = Command(*run.words("killed", "--resume"))
    assert command.wait() == [0], command.text()[-3000:]
    check_same(run, "killed", "whole")
    assert len(run.attempts("killed")) >= kills // 2


@pytest.mark.slow
def test_killed_run_ends_bitwise_as_an_uninterrupted_one(tmp_path, toy_folder):
    words = ["model.dropout=0.1", "objective.learn_temperature=true", "optimization.max_steps=80"]
    kill_often(Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words), KILLS)


@pytest.mark.soak
def test_run_killed_200_times_ends_bitwise_as_an_uninterrupted_one(tmp_path, toy_folder):
    words = ["model.dropout=0.1", "objective.learn_temperature=true", "optimization.max_steps=1500"]
    kill_often(Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words), SOAK_KILLS)


def test_trackers_see_one_run_in_all_its_attempts(tmp_path, toy_folder):
    """R33, with fewer attempts: the id is the same, and no step is logged twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["trackers=[{kind: tensorboard}, {kind: wandb}]", "optimization.max_steps=40"]
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words)
    environment = {"WANDB_MODE": "offline"}
    for step in (4, 11, 18, 25):
        command = Command(*run.words("a", "--resume"), environment=environment)
        run.wait_for_step(command, "a", step)
        command.send(signal.SIGTERM if step % 2 else signal.SIGKILL)
        command.wait()
    command = Command(*run.words("a", "--resume"), environment=environment)
    assert command.wait() == [0], command.text()[-3000:]
    ids = {path.name.rpartition("-")[2] for path in run.path("a").glob("wandb/offline-run-*")}
    assert len(ids) == 1
    events = EventAccumulator(str(run.path("a") / "tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == sorted(set(steps))
    assert set(steps) == set(range(40))
    assert len(run.losses("a")) == 40
