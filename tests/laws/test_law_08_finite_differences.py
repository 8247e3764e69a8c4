"""Law 8: gradients equal finite differences: of every loss, of every objective down to the weights,
and of a learned temperature.
"""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call
from twins import SmallEncoder, excluding, full_batch, graded_batch, taught_batch

from trainer import log_partition as partition
from trainer import losses
from trainer.log_partition import log_partition
from trainer.microbatches import in_microbatches
from trainer.objectives.candidates import Cosent, Distillation, EmbeddingScores, MarginMse, Triplet
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.sigmoid import Bias, Sigmoid
from trainer.scores import dot, maxsim, own_scores

OBJECTIVES = {
    "contrastive": (full_batch, partial(Contrastive(dot), temperature=0.5)),
    "symmetric": (
        full_batch,
        partial(Contrastive(dot, symmetric=True), temperature=0.5),
    ),
    "sigmoid": (full_batch, partial(Sigmoid(dot, Bias(-1.0, is_learned=True)), temperature=0.5)),
    "cosent": (graded_batch, partial(Cosent(EmbeddingScores(dot)), temperature=0.5)),
    "triplet": (full_batch, partial(Triplet(EmbeddingScores(dot), margin=0.31), temperature=1.0)),
    "distillation": (
        taught_batch,
        partial(Distillation(EmbeddingScores(dot), teacher_temperature=2.0), temperature=0.5),
    ),
    "margin-mse": (taught_batch, partial(MarginMse(EmbeddingScores(dot)), temperature=1.0)),
}


def scores_of(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


class TestLosses:
    def test_gradient_of_info_nce_equals_finite_differences(self):
        assert gradcheck(
            lambda scores: losses.info_nce(scores[:, 0], scores.logsumexp(1)), [scores_of(3, 4)]
        )

    def test_gradients_of_cosent_and_its_temperature_equal_finite_differences(self):
        temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
        assert gradcheck(
            lambda scores, temperature: losses.cosent(scores, labels, temperature),
            [scores_of(4), temperature],
        )

    def test_gradient_of_triplet_equals_finite_differences(self):
        assert gradcheck(partial(losses.triplet, margin=0.37), [scores_of(4, 3)])

    @pytest.mark.parametrize("loss", [losses.kl, losses.margin_mse])
    def test_gradients_of_teacher_losses_equal_finite_differences(self, loss):
        assert gradcheck(partial(loss, teacher=scores_of(4, 3).detach()), [scores_of(4, 3)])


class TestScores:
    @pytest.mark.parametrize("score", [dot, partial(own_scores, score=dot)])
    def test_gradients_of_scores_equal_finite_differences(self, score):
        assert gradcheck(score, [scores_of(3, 2), scores_of(6, 2)])

    def test_gradient_of_maxsim_equals_finite_differences(self):
        assert gradcheck(maxsim, [scores_of(3, 2, 4), scores_of(6, 3, 4)])

    @pytest.mark.parametrize("symmetric", [False, True])
    def test_gradient_of_a_tiled_log_partition_equals_finite_differences(
        self, symmetric, monkeypatch
    ):
        monkeypatch.setitem(partition.TILE_SCORES, "cpu", 9)
        temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

        def both(queries, documents, temperature):
            found = log_partition(
                queries,
                documents,
                dot,
                temperature,
                excluding(torch.arange(50).reshape(5, 10) % 7 == 3),
                symmetric=symmetric,
            )
            return found.queries, *([found.positives] if symmetric else [])

        assert gradcheck(both, [scores_of(5, 3), scores_of(10, 3), temperature])

    def test_gradient_of_log_partition_with_exclusions_equals_finite_differences(self):
        excluded = torch.tensor([[False, True, False], [False, False, True]])
        temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        assert gradcheck(
            lambda queries, documents, temperature: (
                log_partition(queries, documents, dot, temperature, excluding(excluded)).queries
            ),
            [scores_of(2, 3), scores_of(3, 3), temperature],
        )


def of_weights(objective, batch, wrap=lambda encoder: encoder):
    """The loss as a function of the encoder's weights, and those weights."""
    encoder = SmallEncoder(vocabulary=40, dimensions=3)
    names = [name for name, _ in encoder.named_parameters()]

    def loss(*weights):
        given = dict(zip(names, weights, strict=True))
        return objective(batch, wrap(lambda texts: functional_call(encoder, given, (texts,)))).loss

    return loss, [parameter.detach().clone().requires_grad_() for parameter in encoder.parameters()]


@pytest.mark.parametrize("name", OBJECTIVES)
class TestObjectives:
    def test_gradients_of_weights_equal_finite_differences(self, name):
        make, objective = OBJECTIVES[name]
        loss, weights = of_weights(objective, make())
        assert torch.autograd.grad(loss(*weights), weights)[0].norm() > 1e-3
        assert gradcheck(loss, weights, fast_mode=True)

    def test_gradients_of_recomputed_microbatches_equal_finite_differences(self, name):
        make, objective = OBJECTIVES[name]
        loss, weights = of_weights(
            objective, make(), lambda encode: in_microbatches(encode, 20, kept_tokens=0)
        )
        assert gradcheck(loss, weights, fast_mode=True)

    def test_detached_documents_are_caught(self, name):
        make, objective = OBJECTIVES[name]
        batch = make()
        loss, weights = of_weights(
            objective,
            batch,
            lambda encode: (
                lambda texts: encode(texts).detach() if texts is batch.documents else encode(texts)
            ),
        )
        with pytest.raises(GradcheckError):
            gradcheck(loss, weights, fast_mode=True)
