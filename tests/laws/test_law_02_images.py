"""Laws 1 and 2 for images and captions: neither micro-batches nor ranks nor strategies change the
gradient.
"""

import functools
import os

import pytest
import torch
from image_matrix import (
    CASES,
    CUTS,
    TEMPERATURE,
    image_batch_of,
    image_encoder_of,
    image_gradient_of,
    image_objective_of,
)
from lightning_step import SETTINGS, OneStep, gradient_of_step
from matrix import likeness, mean_over_ranks
from ranks import on_ranks

from trainer.collectives import rank, ranks
from trainer.microbatches import MicroBatching
from trainer.modules.retriever import Temperature

STRATEGIES = [(kind, 2) for kind in ("ddp", "fsdp2", "zero1", "zero2", "zero3")] + [("hsdp", 4)]
WHOLE = bool(os.environ.get("NEARFAR_WHOLE_MATRIX"))
SOME = [
    ("clip", "contrastive", "lora", "partly kept"),
    ("siglip", "sigmoid", "full", "micro-batched"),
    ("two towers", "contrastive", "full", "partly kept"),
]
"""With NEARFAR_WHOLE_MATRIX, every strategy takes all cases, on four ranks too."""
TOLERANCE = 1e-5


def gradients(folder, cases):
    """Of each case: the loss of this rank, and the mean over ranks of the gradient."""
    results = []
    for kind, objective, tuning, cut in cases:
        encoder = image_encoder_of(folder, kind, tuning, torch.float64)
        batch = image_batch_of(encoder, rank(), ranks())
        loss, gradient = image_gradient_of(encoder, batch, objective, cut)
        results.append((loss, mean_over_ranks(gradient)))
    return results


@pytest.fixture(scope="module")
def alone(checkpoints):
    """Of a case: one process, the whole batch at once, in float64."""

    @functools.cache
    def gradient(kind, objective, tuning):
        return gradients(checkpoints, [(kind, objective, tuning, "whole")])[0]

    return gradient


@pytest.mark.parametrize("count", [1, 2, 4])
def test_ranks_and_micro_batches_of_images_equal_the_whole_batch(checkpoints, alone, count):
    for answers in on_ranks(count, gradients, checkpoints, CASES):
        for case, (loss, gradient) in zip(CASES, answers, strict=True):
            expected_loss, expected = alone(*case[:3])
            assert expected.norm() > 1e-3
            assert loss == pytest.approx(expected_loss, rel=1e-10), case
            norm, turned = likeness(gradient, expected)
            assert norm == pytest.approx(1, abs=1e-10), case
            assert turned <= 1e-20, case


def steps(folder, kind, cases):
    """Of each case: the loss of this rank, and the gradient of one step under a strategy."""
    results = []
    for model, objective, tuning, cut in cases:
        encoder = image_encoder_of(folder, model, tuning, torch.float32)
        losses = []

        def objective_and_loss(batch, encode, temperature, objective=objective, losses=losses):
            outcome = image_objective_of(objective, torch.float32)(batch, encode, temperature)
            losses.append(float(outcome.loss.detach()))
            return outcome

        module = OneStep(
            encoder,
            MicroBatching(encoder, **CUTS[cut], is_padded=True),
            objective_and_loss,
            Temperature(TEMPERATURE, is_learned=True),
            SETTINGS,
            dict,
        )
        batch = image_batch_of(encoder, rank(), ranks())
        results.append((losses, torch.cat(gradient_of_step(module, kind, batch))))
    return results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"), STRATEGIES + [(kind, 4) for kind, _ in STRATEGIES[:-1] if WHOLE]
)
def test_step_of_images_has_the_gradient_of_one_process(checkpoints, alone, kind, count):
    if kind.startswith("zero"):
        pytest.importorskip("deepspeed")
    cases = CASES if WHOLE else SOME
    for answers in on_ranks(count, steps, checkpoints, kind, cases):
        for case, ((loss,), gradient) in zip(cases, answers, strict=True):
            expected_loss, expected = alone(*case[:3])
            assert loss == pytest.approx(expected_loss, rel=TOLERANCE), case
            norm, turned = likeness(gradient, expected)
            assert norm == pytest.approx(1, abs=TOLERANCE), case
            assert turned <= TOLERANCE**2, case
