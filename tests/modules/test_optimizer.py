"""AdamW's groups and the schedule of rates, step by step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

from trainer.modules.optimizer import OptimizerSettings, adamw, rate_factor
from trainer.modules.retriever import Temperature


def settings_of(**changes):
    given = {
        "learning_rate": 1e-3,
        "head_learning_rate": 2e-3,
        "temperature_learning_rate": 3e-3,
        "weight_decay": 0.1,
        "schedule": "cosine",
    }
    return OptimizerSettings(**(given | {"warmup_steps": 2, "total_steps": 10} | changes))


class Encoder(nn.Module):
    """One of each kind of weight."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.projection = nn.Linear(4, 2)


class TestRateFactor:
    @given(
        some.integers(0, 20),
        some.integers(1, 60),
        some.sampled_from(["cosine", "linear", "constant"]),
    )
    @settings(max_examples=100, deadline=None)
    def test_factor_rises_only_in_the_warm_up(self, warmup, after, schedule):
        total = warmup + after
        factors = [rate_factor(step, warmup, total, schedule) for step in range(total + 1)]
        assert all(0 < factor <= 1 for factor in factors[:-1])
        assert factors[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
        assert factors[warmup] == 1.0
        assert all(
            one >= other
            for one, other in zip(factors[warmup:], factors[warmup + 1 :], strict=False)
        )
        assert factors[-1] == pytest.approx(1.0 if schedule == "constant" else 0.0, abs=1e-12)

    def test_cosine_schedule_equals_a_calculation_by_hand(self):
        assert [rate_factor(step, 0, 4, "cosine") for step in range(5)] == pytest.approx(
            [1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2, 0]
        )

    def test_factor_is_not_negative_after_the_end(self):
        assert rate_factor(99, 2, 10, "linear") == 0
        assert rate_factor(99, 2, 10, "cosine") == 0

    def test_schedule_may_consist_of_warm_up_only(self):
        assert [rate_factor(step, 3, 3, "cosine") for step in range(3)] == pytest.approx(
            [1 / 3, 2 / 3, 1]
        )


class TestGroups:
    def groups(self, is_learned=True, **changes):
        encoder, temperature = Encoder(), Temperature(0.05, is_learned)
        built = adamw(encoder, temperature, settings_of(**changes))
        names = {
            id(parameter): name
            for name, parameter in [*encoder.named_parameters(), ("temperature", temperature.log)]
        }
        found = {}
        for group in built["optimizer"].param_groups:
            for parameter in group["params"]:
                assert names[id(parameter)] not in found, "twice"
                found[names[id(parameter)]] = (group["initial_lr"], group["weight_decay"])
        return found

    def test_weights_have_their_rates_and_only_matrices_decay(self):
        assert self.groups() == {
            "backbone.0.weight": (1e-3, 0.1),
            "backbone.0.bias": (1e-3, 0.0),
            "backbone.1.weight": (1e-3, 0.0),
            "backbone.1.bias": (1e-3, 0.0),
            "projection.weight": (2e-3, 0.1),
            "projection.bias": (2e-3, 0.0),
            "temperature": (3e-3, 0.0),
        }

    def test_fixed_temperature_is_not_optimised(self):
        assert "temperature" not in self.groups(is_learned=False)

    def test_equal_rates_share_a_group_with_all_their_weights(self):
        assert len(self.groups(head_learning_rate=1e-3, temperature_learning_rate=1e-3)) == 7

    def test_schedule_changes_every_group(self):
        encoder = Encoder()
        built = adamw(encoder, Temperature(0.05, is_learned=True), settings_of(schedule="linear"))
        optimizer, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
        assert built["lr_scheduler"]["interval"] == "step"
        rates = []
        for _ in range(10):
            rates.append([group["lr"] / group["initial_lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
        assert rates == [
            [pytest.approx(rate_factor(step, 2, 10, "linear"))] * len(rates[0])
            for step in range(10)
        ]

    def test_decay_shrinks_a_matrix_that_has_no_gradient_and_no_bias(self):
        encoder = Encoder()
        before = {
            name: parameter.detach().clone() for name, parameter in encoder.named_parameters()
        }
        optimizer = adamw(
            encoder,
            Temperature(0.05, is_learned=False),
            settings_of(warmup_steps=0, schedule="constant"),
        )["optimizer"]
        for parameter in encoder.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        torch.testing.assert_close(
            encoder.backbone[0].weight, before["backbone.0.weight"] * (1 - 1e-3 * 0.1)
        )
        for name in ("backbone.0.bias", "backbone.1.weight", "frozen.weight"):
            assert torch.equal(encoder.get_parameter(name), before[name])
