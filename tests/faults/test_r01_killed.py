"""R01: SIGKILL at random instants, a fifth of them inside a save. What comes out is bitwise what an
uninterrupted run gives.
"""

import random
import signal
import time

import pytest
import torch
from killable import Command, Run

KILLS = 20


@pytest.fixture
def run(tmp_path, toy_folder):
    words = ["model.dropout=0.1", "objective.learn_temperature=true"]
    return Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words)


def finish(run, name, **settings):
    assert Command(*run.words(name), **settings).wait() == [0] * settings.get("ranks", 1)


def check_same(run, name, other):
    weights, expected = run.weights(name), run.weights(other)
    assert weights.keys() == expected.keys()
    different = [key for key in weights if not torch.equal(weights[key], expected[key])]
    assert not different, different
    assert run.losses(name) == run.losses(other)


def test_killed_run_ends_bitwise_as_an_uninterrupted_one(run):
    finish(run, "whole")
    random.seed(1)
    kills = 0
    while kills < KILLS:
        command = Command(*run.words("killed", "--resume"))
        checkpoints = run.path("killed") / "checkpoints"
        if kills % 5 == 4:
            while command.is_alive() and not [*checkpoints.glob(".step-*")]:
                time.sleep(0.001)
        else:
            time.sleep(random.uniform(0.1, 1.6))
        if not command.is_alive():
            break
        command.send(signal.SIGKILL)
        assert command.wait() == [-signal.SIGKILL]
        kills += 1
    print(kills)
    assert Command(*run.words("killed", "--resume")).wait() == [0]
    check_same(run, "killed", "whole")
