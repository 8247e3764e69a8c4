"""Training through Lightning under a strategy; and one step of plain gradient descent, whose
gradient is read off the weights before and after it, so that everything on the way is in it.
"""

from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.collectives import ranks
from trainer.modules.optimizer import OptimizerSettings
from trainer.modules.retriever import Retriever
from trainer.strategies.lightning import lightning_precision, lightning_strategy
from trainer.strategies.machine.plan import SINGLE, Plan
from trainer.strategies.weights import full_weights

RATE = 1e3
SETTINGS = OptimizerSettings(RATE, RATE, RATE, 0.0, "constant", 0, 1)


class OneStep(Retriever):
    """Plain gradient descent in place of AdamW."""

    def configure_optimizers(self):
        return torch.optim.SGD(
            [parameter for parameter in self.parameters() if parameter.requires_grad], lr=RATE
        )


def plan_of(kind: str) -> Plan:
    """The plan of a strategy on the ranks there are; of `hsdp` two nodes with a copy each."""
    if ranks() == 1:
        return SINGLE
    settings = None
    if kind.startswith("zero"):
        from trainer.strategies.machine.deepspeed_settings import deepspeed_settings

        settings = deepspeed_settings({"zero_optimization": {"stage": int(kind[-1])}}, "the test")
    if kind == "hsdp":
        return Plan("fsdp2", ranks(), 2, ranks() // 2, None, "cpu")
    return Plan(kind, ranks(), 1, ranks(), None, "cpu", settings)


def trainer_of(kind: str, logger: Any = False, **settings: Any) -> lightning.Trainer:
    """A trainer under a strategy on the CPUs of the ranks there are, which prints and saves
    nothing.
    """
    plan = plan_of(kind)
    return lightning.Trainer(
        accelerator="cpu",
        devices=ranks(),
        strategy=lightning_strategy(plan, "cpu"),
        plugins=[lightning_precision(plan, "fp32", "cpu")],
        use_distributed_sampler=False,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def take_step(module: OneStep, kind: str, batch: Batch) -> None:
    """Trains for one step under a strategy."""
    data = torch.utils.data.DataLoader([batch], batch_size=None)
    trainer_of(kind, max_steps=1).fit(module, data)


def gradient_of_step(module: OneStep, kind: str, batch: Batch) -> list[Tensor]:
    """The gradient of each weight, flat, in float64."""
    before = full_weights(module)
    take_step(module, kind, batch)
    after = full_weights(module)
    return [((before[name] - after[name]) / RATE).flatten().double() for name in before]
