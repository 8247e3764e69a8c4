"""Law 7: a teacher equal to the student gives zero loss and zero gradient; a constant a query changes nothing."""

import pytest
import torch

from trainer import losses


@pytest.mark.parametrize("loss", [losses.kl, losses.margin_mse])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_nothing_to_learn(loss, shift):
    scores = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    found = loss(scores, scores.detach() + shift * torch.arange(5)[:, None])
    found.backward()
    assert abs(found.item()) < 1e-12
    assert scores.grad.norm() < 1e-12


@pytest.mark.parametrize("loss", [losses.kl, losses.margin_mse])
def test_another_teacher_is_something_to_learn(loss):
    scores = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    found = loss(scores, scores.detach().flip(1))
    found.backward()
    assert found.item() > 1e-2
    assert scores.grad.norm() > 1e-2
