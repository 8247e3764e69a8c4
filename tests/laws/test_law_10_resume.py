"""Law 10: a run that was stopped and resumed equals one that was not, bitwise on the same ranks."""

import signal

import pytest
import torch
from killable import Command, Run, check_same

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
    "four ranks": ["bi-encoder-full"],
}


@pytest.mark.parametrize("name", RECIPES)
def test_state_of_every_part_is_restored(tmp_path, toy_folder, name):
    recipe, *words = RECIPES[name]
    words = [word.replace("TEACHER", str(toy_folder("roberta"))) for word in words]
    ranks = 4 if name == "four ranks" else 1
    run = Run(tmp_path, toy_folder("bert"), recipe, "model.dropout=0.1", *words)
    assert Command(*run.words("whole"), ranks=ranks).wait() == [0] * ranks
    for step in (5, 11, 17):
        command = Command(*run.words("killed", "--resume"), ranks=ranks)
        run.wait_for_step(command, "killed", step)
        command.send(signal.SIGKILL)
        command.wait()
    command = Command(*run.words("killed", "--resume"), ranks=ranks)
    assert command.wait() == [0] * ranks, command.text()[-3000:]
    if ranks == 1:
        check_same(run, "killed", "whole")
    assert run.losses("killed") == run.losses("whole")


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
    run.wait_for_step(command, "a", 4)
    command.send(signal.SIGTERM)
    assert command.wait() == [85]
    command = Command(*run.words("a", "--resume"), before=lambda rank: plant())
    assert command.wait() == [0], command.text()[-3000:]
    is_faultless = plant.__name__ == "<lambda>"
    assert (run.losses("a") == run.losses("whole")) is is_faultless
