"""R01, R33: SIGKILL at random instants, a fifth of them inside a save. The end is bitwise that of
an uninterrupted run, and its trackers have seen one run.
"""

import random
import signal
import time

import pytest
import torch
from killable import Command, Run

KILLS, SOAK_KILLS = 20, 200


def check_same(run, name, other):
    weights, expected = run.weights(name), run.weights(other)
    assert weights.keys() == expected.keys()
    different = [key for key in weights if not torch.equal(weights[key], expected[key])]
    assert not different, different
    assert run.losses(name) == run.losses(other)


def kill(run, name, number):
    """Starts or continues the run and kills it: while it starts, inside a save, or in a step.

    Returns False if it ended before.
    """
    command = Command(*run.words(name, "--resume"))
    checkpoints, log = run.path(name) / "checkpoints", run.path(name) / "log.jsonl"
    match number % 5:
        case 0:
            time.sleep(random.uniform(0.0, 1.0))
        case 1:
            while command.is_alive() and not [*checkpoints.glob(".step-*")]:
                time.sleep(0.0005)
            time.sleep(random.uniform(0.0, 0.005))
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
    assert Command(*words).wait() == [0]
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
    words = ["model.dropout=0.1", "objective.learn_temperature=true", "optimization.max_steps=100"]
    kill_often(Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words), KILLS)


@pytest.mark.soak
def test_run_killed_200_times_ends_bitwise_as_an_uninterrupted_one(tmp_path, toy_folder):
    words = ["model.dropout=0.1", "objective.learn_temperature=true", "optimization.max_steps=900"]
    kill_often(Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words), SOAK_KILLS)


RECIPES = {
    "lora with mined negatives": [
        "bi-encoder-lora",
        "refresh={every_steps: 7, first_step: 4, negatives: 2}",
        "data.negatives_per_query=0",
    ],
    "late interaction with a teacher": [
        "colbert",
        "model.projection_dimensions=16",
        "teacher={kind: distribution, models: [TEACHER]}",
    ],
    "two ranks": ["bi-encoder-full"],
}


@pytest.mark.parametrize("name", RECIPES)
def test_state_of_every_part_is_restored(tmp_path, toy_folder, name):
    recipe, *words = RECIPES[name]
    words = [word.replace("TEACHER", str(toy_folder("roberta"))) for word in words]
    ranks = 2 if name == "two ranks" else 1
    run = Run(tmp_path, toy_folder("bert"), recipe, "model.dropout=0.1", *words)
    assert Command(*run.words("whole"), ranks=ranks).wait() == [0] * ranks
    for step in (5, 11, 17):
        command = Command(*run.words("killed", "--resume"), ranks=ranks)
        log = run.path("killed") / "log.jsonl"
        command.wait_for(lambda: log.exists() and f'"step": {step},' in log.read_text())  # noqa: B023
        command.send(signal.SIGKILL)
        command.wait()
    command = Command(*run.words("killed", "--resume"), ranks=ranks)
    assert command.wait() == [0] * ranks, command.text()[-3000:]
    if ranks == 1:
        check_same(run, "killed", "whole")
    assert run.losses("killed") == run.losses("whole")


def test_trackers_see_one_run_in_all_its_attempts(tmp_path, toy_folder):
    """R33, with fewer attempts: the id is the same, and no step is logged twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["trackers=[{kind: tensorboard}, {kind: wandb}]", "optimization.max_steps=40"]
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words)
    environment = {"WANDB_MODE": "offline"}
    for step in (4, 11, 18, 25):
        command = Command(*run.words("a", "--resume"), environment=environment)
        log = run.path("a") / "log.jsonl"
        command.wait_for(lambda: log.exists() and f'"step": {step},' in log.read_text())  # noqa: B023
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


def forget_moments():
    from trainer.checkpoints import callback

    callback.restore_moments = lambda *_: None


def draw_dropout_from_the_state_of_the_process():
    torch.manual_seed = lambda _: None


def begin_the_order_of_data_again():
    import trainer.training as module

    original = module.pair_data
    module.pair_data = lambda *arguments: _from_the_beginning(original(*arguments))


def _from_the_beginning(data):
    steps, count = data.steps, data.steps.first
    original = type(steps).samples
    type(steps).samples = lambda self, step: original(self, step - count)
    return data


@pytest.mark.parametrize(
    "plant",
    [
        forget_moments,
        draw_dropout_from_the_state_of_the_process,
        begin_the_order_of_data_again,
        lambda: None,
    ],
)
def test_planted_fault_makes_the_comparison_fail(tmp_path, toy_folder, plant):
    """The comparison is able to fail: for each part of the state that a run could forget."""
    words = ["model.dropout=0.1", "optimization.max_steps=12", "validation.every_steps=100"]
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words)
    assert Command(*run.words("whole")).wait() == [0]
    command = Command(*run.words("a"))
    log = run.path("a") / "log.jsonl"
    command.wait_for(lambda: log.exists() and '"step": 4,' in log.read_text())
    command.send(signal.SIGTERM)
    assert command.wait() == [85]
    command = Command(*run.words("a", "--resume"), before=lambda rank: plant())
    assert command.wait() == [0], command.text()[-3000:]
    is_faultless = plant.__name__ == "<lambda>"
    assert (run.losses("a") == run.losses("whole")) is is_faultless
