"""Every architecture on the pretend device: embeddings and gradients are those of the CPU, and a
recomputation draws the dropout of the first pass.
"""

import pytest
import torch
from late_interaction_toys import new_encoder
from matrix import batch_of, trained
from pretend_device import DEVICE, on_pretend_device

from trainer.microbatches import in_microbatches
from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.settings import Lora
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.ranking import Ranking
from trainer.objectives.ranking_losses import softmax_cross_entropy
from trainer.scores import dot, maxsim

CONTRASTIVE = Contrastive(dot)


def dense(folder, **settings):
    return build_dense_encoder(DenseSettings(backbone=str(folder), **settings))


def cross_encoder(folder, **settings):
    return build_cross_encoder(CrossEncoderSettings(backbone=str(folder), **settings))


KINDS = {
    "dense": (dense, CONTRASTIVE),
    "late interaction": (new_encoder, Contrastive(maxsim)),
    "cross-encoder": (cross_encoder, Ranking(softmax_cross_entropy)),
}


def loss_and_gradient(encoder, objective=CONTRASTIVE, kept_tokens=None):
    loss = objective(batch_of(encoder), in_microbatches(encoder, 80, kept_tokens), 0.2).loss
    gradients = torch.autograd.grad(loss, list(trained(encoder).values()), materialize_grads=True)
    return loss.detach().cpu(), torch.cat([gradient.flatten() for gradient in gradients]).cpu()


def nearly_equal(one, other):
    return all(
        torch.allclose(*pair, rtol=1e-8, atol=1e-10) for pair in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "mpnet", "modernbert", "distilbert", "qwen2"]
)
def test_architecture_gives_the_results_of_the_cpu(toy_folder, family):
    folder = toy_folder(family)

    def work():
        encoder = dense(folder).double()
        expected = loss_and_gradient(encoder)
        return float(expected[1].norm()), nearly_equal(
            loss_and_gradient(encoder.to(DEVICE)), expected
        )

    norm, is_equal = on_pretend_device(work)
    assert norm > 1e-3
    assert is_equal


def recomputation_equals_the_first_pass(folder, kind, lora, replays=True):
    """Without `replays`, no seed reaches the device."""
    if not replays:
        torch.pretend.manual_seed_all = lambda _: None
    build, objective = KINDS[kind]
    encoder = build(folder, dropout=0.1, lora=lora).double().to(DEVICE)
    with_dropout = loss_and_gradient(encoder, objective)
    recomputed = loss_and_gradient(encoder, objective, kept_tokens=160)
    encoder.eval()
    is_active = not nearly_equal(loss_and_gradient(encoder, objective), with_dropout)
    assert is_active
    return nearly_equal(recomputed, with_dropout)


@pytest.mark.parametrize("lora", [None, Lora(rank=4, dropout=0.2)], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputation_on_the_device_draws_the_same_dropout(toy_folder, kind, lora):
    folder = toy_folder("bert")
    assert on_pretend_device(recomputation_equals_the_first_pass, folder, kind, lora)


def test_dropout_that_is_not_replayed_is_noticed(toy_folder):
    arguments = toy_folder("bert"), "dense", None, False
    assert not on_pretend_device(recomputation_equals_the_first_pass, *arguments)
