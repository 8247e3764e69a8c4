"""Every objective with every score on the pretend device: no CPU tensor meets the device, and loss
and gradient are those of the CPU.
"""

from dataclasses import replace

import matrix
import pytest
import torch
from matrix import JOINT, PAIRS, batch_of, encoder_of, gradient_of
from pretend_device import DEVICE, move_to_device, on_pretend_device

from trainer.models.dense import read_encoder
from trainer.objectives.candidates import Cosent, EmbeddingScores, Triplet
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.exclusions import Outscoring, RepeatedPositives, TaughtBetter
from trainer.scores import dot

MICRO_BATCHES = {
    "kept": {"tokens": 80},
    "recomputed": {"tokens": 80, "kept_tokens": 0},
    "kept and recomputed": {"tokens": 80, "kept_tokens": 160},
}
EXCLUDING = {
    "better by the teacher": Contrastive(dot, exclusions=(TaughtBetter(0.0),)),
    "repeated": Contrastive(dot, symmetric=True, exclusions=(RepeatedPositives(),)),
    "better by a guide": Contrastive(dot, exclusions=()),
    "triplet": Triplet(EmbeddingScores(dot), margin=0.3),
    "cosent": Cosent(EmbeddingScores(dot)),
}
"""Objectives that the matrix of law 2 does not contain."""


def losses_and_gradients(folder, objective, score, micro, tuning="full"):
    """Of the CPU and of the device, in float64."""
    matrix.MICRO_BATCHES |= MICRO_BATCHES
    encoder = encoder_of(folder, score, tuning, torch.float64)
    batch = batch_of(encoder)
    results = [gradient_of(encoder, batch, objective, score, micro)]
    move_to_device(encoder)
    return [*results, gradient_of(encoder, batch, objective, score, micro)]


def assert_equal(results):
    (loss, gradient), (device_loss, device_gradient) = results
    assert device_loss == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert gradient.norm() > 1e-3
    assert (device_gradient - gradient).norm() < 1e-8 * gradient.norm()


@pytest.mark.parametrize(("objective", "score"), PAIRS)
def test_gradient_on_the_device_is_that_of_the_cpu(toy_folder, objective, score):
    folder = toy_folder("bert")
    assert_equal(
        on_pretend_device(losses_and_gradients, folder, objective, score, "kept and recomputed")
    )


@pytest.mark.parametrize("micro", ["kept", "recomputed"])
@pytest.mark.parametrize(("score", "objective"), [("maxsim", "symmetric"), (JOINT, "listwise")])
def test_adapter_gets_the_gradient_of_the_cpu(toy_folder, objective, score, micro):
    folder = toy_folder("bert")
    assert_equal(on_pretend_device(losses_and_gradients, folder, objective, score, micro, "lora"))


@pytest.fixture(scope="module")
def loss_without_rules(toy_folder):
    encoder = encoder_of(toy_folder("bert"), "dot", "full", torch.float64)
    return gradient_of(encoder, batch_of(encoder), "contrastive", "dot", "whole")[0]


@pytest.mark.parametrize("name", EXCLUDING)
def test_excluded_pairs_are_those_of_the_cpu(toy_folder, name, loss_without_rules):
    folder = toy_folder("bert")

    def work():
        guide, objective = read_encoder(str(folder)), EXCLUDING[name]
        if name == "better by a guide":
            guide.to(DEVICE)
            objective = replace(objective, exclusions=(Outscoring(guide, 0.01),))
        matrix.OBJECTIVES[name] = lambda _: objective
        return losses_and_gradients(folder, name, "dot", "kept and recomputed")

    results = on_pretend_device(work)
    assert_equal(results)
    assert results[0][0] != pytest.approx(loss_without_rules), "the rule changes the loss"
