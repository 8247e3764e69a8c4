"""Each loss against its formula in loops: value, gradient norm and direction."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch.nn import functional
from twins import TOLERANCE, alike, value_and_gradient

from trainer.losses import cosent, info_nce, triplet

DTYPES = [torch.float64, torch.float32]


def scores_of(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def cosent_loops(scores, labels, temperature):
    total = torch.ones((), dtype=scores.dtype)
    for better in range(len(scores)):
        for worse in range(len(scores)):
            if labels[better] > labels[worse]:
                total = total + torch.exp((scores[worse] - scores[better]) / temperature)
    return torch.log(total)


def triplet_loops(scores, margin):
    hinges = []
    for positive, *negatives in scores:
        for negative in negatives:
            hinge = margin - positive + negative
            hinges.append(hinge if hinge > 0 else hinge * 0)
    return sum(hinges) / len(hinges)


@pytest.mark.parametrize("dtype", DTYPES)
class TestAgainstTheFormula:
    def test_info_nce_is_the_cross_entropy_of_the_positive(self, dtype):
        scores = scores_of(5, 7, dtype=dtype)
        found = value_and_gradient(info_nce(scores[:, 0], scores.logsumexp(1)), [scores])
        wanted = value_and_gradient(
            functional.cross_entropy(scores, torch.zeros(5, dtype=torch.long)), [scores]
        )
        assert alike(found, wanted, TOLERANCE[dtype])
        assert not alike((2 * found[0], 2 * found[1]), wanted, TOLERANCE[dtype])

    @pytest.mark.parametrize("temperature", [1.0, 0.05])
    def test_cosent_equals_the_formula(self, dtype, temperature):
        scores, labels = (
            scores_of(6, dtype=dtype),
            torch.tensor([3.0, 1.0, 2.0, 2.0, 0.5, 3.0], dtype=dtype),
        )
        found = value_and_gradient(cosent(scores, labels, temperature), [scores])
        wanted = value_and_gradient(cosent_loops(scores, labels, temperature), [scores])
        assert alike(found, wanted, TOLERANCE[dtype])
        wrong_way = value_and_gradient(cosent(scores, -labels, temperature), [scores])
        assert not alike(wrong_way, wanted, TOLERANCE[dtype])
        assert not alike((found[0], 2 * found[1]), wanted, TOLERANCE[dtype])

    def test_triplet_equals_the_formula(self, dtype):
        scores = scores_of(5, 4, dtype=dtype)
        found = value_and_gradient(triplet(scores, 0.4), [scores])
        wanted = value_and_gradient(triplet_loops(scores, 0.4), [scores])
        assert alike(found, wanted, TOLERANCE[dtype])
        hinges = 0.4 - scores[:, :1] + scores[:, 1:]
        assert (hinges > 0).any()
        assert (hinges < 0).any(), "both sides of the hinge are there"
        assert not alike(value_and_gradient(hinges.mean(), [scores]), wanted, TOLERANCE[dtype])


class TestCosent:
    def test_cosent_depends_only_on_the_order_of_labels(self):
        scores, labels = (
            scores_of(6),
            torch.tensor([3.0, 1.0, 2.0, 2.0, 0.5, 3.0], dtype=torch.float64),
        )
        assert cosent(scores, labels, 0.1) == cosent(scores, labels.exp() * 100, 0.1)

    def test_equal_labels_give_a_loss_of_zero(self):
        scores = scores_of(4)
        value, gradient = value_and_gradient(
            cosent(scores, torch.ones(4, dtype=torch.float64), 0.1), [scores]
        )
        assert value == 0
        assert torch.equal(
            gradient, torch.zeros(4, dtype=torch.float64)
        )  # zero, not NaN from a minus infinity

    def test_pair_of_equal_labels_has_no_gradient(self):
        scores, labels = scores_of(3), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
        assert cosent(scores, labels, 0.5).item() == pytest.approx(
            cosent_loops(scores, labels, 0.5).item(), rel=1e-12
        )

    def test_large_scores_do_not_overflow(self):
        assert cosent(
            torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 0.0]), 0.001
        ).item() == pytest.approx(2000, rel=1e-6)

    @given(some.lists(some.tuples(some.floats(-1, 1), some.integers(0, 3)), min_size=1, max_size=8))
    @settings(max_examples=50, deadline=None)
    def test_cosent_equals_loops_on_any_labels(self, pairs):
        scores, labels = torch.tensor(pairs, dtype=torch.float64).T
        assert cosent(scores, labels, 0.2).item() == pytest.approx(
            cosent_loops(scores, labels, 0.2).item(), abs=1e-10
        )


class TestTriplet:
    def test_satisfied_margin_costs_nothing(self):
        scores = torch.tensor([[1.0, 0.5, -0.2]], dtype=torch.float64, requires_grad=True)
        value, gradient = value_and_gradient(triplet(scores, 0.4), [scores])
        assert value == 0
        assert gradient.abs().sum() == 0

    def test_equal_scores_cost_the_margin(self):
        assert triplet(torch.zeros(3, 4, dtype=torch.float64), 0.3).item() == pytest.approx(0.3)


def test_law_6_equal_scores_give_the_log_of_the_candidates():
    for candidates in (1, 2, 17):
        scores = torch.full((3, candidates), 0.7, dtype=torch.float64)
        assert info_nce(scores[:, 0], scores.logsumexp(1)).item() == pytest.approx(
            math.log(candidates), abs=1e-12
        )
