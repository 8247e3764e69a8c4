"""The probe sees the gradient that a strategy applies, right or wrong."""

import pytest
import pytorch_lightning as lightning
import torch
from ranks import on_ranks

from trainer.collectives import gather, rank, ranks
from trainer.strategies.machine.deepspeed_settings import deepspeed_settings
from trainer.strategies.machine.plan import SINGLE, Plan
from trainer.strategies.probe import compare_gradients, one_step_gradient, plain_gradient

BATCH = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 4.0], [2.0, 0.0, -3.0], [-0.25, 1.0, 1.0]])


class Squares(lightning.LightningModule):
    """The mean square of a layer's outputs over the whole batch, the same on every rank."""

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layer = torch.nn.Linear(3, 2)
        self.layer.bias.requires_grad_(False)
        self.times = times

    def training_step(self, batch, _=0):
        return self.times * (gather(self.layer(batch)) ** 2).mean()


def probed(kind, times):
    settings = (
        deepspeed_settings({"zero_stage": int(kind[-1])}, "the test")
        if kind.startswith("zero")
        else None
    )
    own = BATCH.chunk(ranks())[rank()]
    return one_step_gradient(
        Squares(times),
        own,
        Plan(kind, ranks(), 1, ranks(), "fp16" if settings else None, "cpu", settings),
        "cpu",
    )


def plain():
    module = Squares()
    return plain_gradient(module, lambda: module.training_step(BATCH))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "zero2", "zero3"])
@pytest.mark.parametrize("times", [1.0, 2.0])
def test_probe_measures_the_gradient_of_the_strategy(kind, times):
    if kind.startswith("zero"):
        pytest.importorskip("deepspeed")
    for found in on_ranks(2, probed, kind, times):
        assert list(found) == ["layer.weight"]
        seen = compare_gradients(found, plain())
        assert (seen.norm_ratio, seen.cosine) == pytest.approx((times, 1), abs=1e-6)
        assert seen.is_equal == (times == 1)
        assert seen.norm > 0.1


def test_probe_measures_the_gradient_of_one_process():
    assert compare_gradients(one_step_gradient(Squares(), BATCH, SINGLE, "cpu"), plain()).is_equal
