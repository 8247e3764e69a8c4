"""Each ranking loss against its formula written out in NumPy, and what is excluded against the same
candidates taken away.
"""

import functools
import math

import numpy as np
import pytest
import torch
from twins import TOLERANCE, alike, value_and_gradient

from trainer.objectives import ranking_losses as losses

BINARY = ((1.0, 0.0, 0.0, 0.0),) * 3
GRADED = ((3.0, 1.0, 0.0, 2.0), (0.0, 0.0, 4.0, 0.0), (1.0, 1.0, 0.0, 0.5))
SCORES = ((0.3, 1.2, -0.7, 0.1), (2.0, -1.0, 0.4, 0.9), (-0.2, 0.6, 0.5, -3.0))


def pointwise(scores, relevance):
    chances = 1 / (1 + np.exp(-scores))
    return -(relevance * np.log(chances) + (1 - relevance) * np.log(1 - chances)).mean()


def pairwise(scores, relevance):
    found = [
        math.log1p(math.exp(s[j] - s[i]))
        for s, r in zip(scores, relevance, strict=True)
        for i in range(len(s))
        for j in range(len(s))
        if r[i] > r[j]
    ]
    return sum(found) / len(found)


def listwise(scores, relevance):
    total = 0.0
    for s, r in zip(scores, relevance, strict=True):
        chances = np.exp(s) / np.exp(s).sum()
        total -= (r / r.sum() * np.log(chances)).sum()
    return total / len(scores)


def lambda_loss(scores, relevance, mu=10.0):
    """Wang et al. 2018: rho_ij + mu delta_ij, in the order of the scores."""
    found = []
    for s, r in zip(scores, relevance, strict=True):
        order = np.argsort(-s, kind="stable")
        s, r = s[order], r[order]
        ideal = sum(
            (2**grade - 1) / math.log2(1 + place)
            for place, grade in enumerate(sorted(r, reverse=True), 1)
        )
        gain = (2**r - 1) / ideal
        for i in range(len(s)):
            for j in range(len(s)):
                if r[i] > r[j]:
                    rho = abs(1 / math.log2(2 + i) - 1 / math.log2(2 + j))
                    delta = abs(1 / math.log2(1 + abs(i - j)) - 1 / math.log2(2 + abs(i - j)))
                    found.append(
                        (rho + mu * delta)
                        * abs(gain[i] - gain[j])
                        * math.log2(1 + math.exp(s[j] - s[i]))
                    )
    return sum(found) / len(found)


CASES = [
    (losses.binary_cross_entropy, pointwise, BINARY),
    (
        losses.binary_cross_entropy,
        pointwise,
        tuple(tuple(grade / 4 for grade in row) for row in GRADED),
    ),
    *(
        (loss, formula, relevance)
        for loss, formula in (
            (losses.rank_net, pairwise),
            (losses.softmax_cross_entropy, listwise),
            (losses.lambda_loss, lambda_loss),
        )
        for relevance in (BINARY, GRADED)
    ),
]
LOSSES = list(dict.fromkeys(loss for loss, _, _ in CASES))


def nobody(scores):
    return torch.zeros_like(scores, dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("loss", "formula", "relevance"), CASES)
def test_loss_equals_its_formula_in_value_and_gradient(loss, formula, relevance, dtype):
    scores, grades = (
        torch.tensor(SCORES, dtype=dtype, requires_grad=True),
        torch.tensor(relevance, dtype=dtype),
    )
    value, gradient = value_and_gradient(loss(scores, grades, nobody(scores)), [scores])
    plain, given = np.array(SCORES), np.array(relevance)
    assert float(value) == pytest.approx(formula(plain, given), rel=TOLERANCE[dtype])
    step, slopes = 1e-6, np.empty(plain.size)
    for place in range(plain.size):
        one = np.eye(1, plain.size, place).reshape(plain.shape) * step
        slopes[place] = (formula(plain + one, given) - formula(plain - one, given)) / (2 * step)
    np.testing.assert_allclose(gradient.detach().numpy(), slopes, atol=2e-6)
    assert np.abs(slopes).max() > 1e-2


@pytest.mark.parametrize("loss", LOSSES)
def test_excluded_candidates_change_nothing(loss):
    """However they score: a known positive among the negatives must not be pushed down, nor change
    places.
    """
    scores = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    relevance, excluded = torch.tensor(BINARY, dtype=torch.float64), nobody(scores)
    excluded[:, 2] = True
    found = value_and_gradient(loss(scores, relevance, excluded), [scores])
    kept = [0, 1, 3]
    value, gradient = value_and_gradient(
        loss(scores[:, kept], relevance[:, kept], excluded[:, kept]), [scores]
    )
    assert alike(found, (value, gradient), 1e-12)
    assert found[1].reshape(3, 4)[:, 2].abs().max() == 0
    assert not alike(
        value_and_gradient(loss(scores, relevance, nobody(scores)), [scores]),
        (value, gradient),
        1e-3,
    ), "it matters"


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_of_minus_infinity_leaves_the_gradient_finite(loss):
    scores = torch.tensor([[50.0, -50.0, 1e4], [-1e4, 1e4, 0.0]], requires_grad=True)
    excluded = torch.tensor([[False, True, True], [False, False, False]])
    value, gradient = value_and_gradient(
        loss(scores, torch.tensor([[1.0, 0.0, 0.0]] * 2), excluded), [scores]
    )
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [losses.rank_net, losses.lambda_loss])
def test_loss_is_zero_without_an_ordered_pair(loss):
    scores = torch.randn(2, 3, requires_grad=True)
    value, gradient = value_and_gradient(loss(scores, torch.ones(2, 3), nobody(scores)), [scores])
    assert value == 0
    assert gradient.abs().max() == 0


def test_mistake_at_the_top_costs_more_than_one_below():
    """What the weights are for (here LambdaRank's part of them): the candidate just above the right
    one is pushed down harder at the top.
    """
    scores = torch.tensor([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]], requires_grad=True)

    def push(loss, place):
        relevance = torch.eye(6)[place][None]
        return float(
            value_and_gradient(loss(scores, relevance, nobody(scores)), [scores])[1][place - 1]
        )

    coarse = functools.partial(losses.lambda_loss, mu=0.0)
    assert push(coarse, 1) > 3 * push(coarse, 5) > 0
    assert push(losses.rank_net, 1) == pytest.approx(push(losses.rank_net, 5)), (
        "which RankNet does not tell apart"
    )
