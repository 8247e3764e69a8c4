"""Measures the gradient that a strategy applies, from the weights before and after one SGD step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import pytorch_lightning as lightning
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.utils.data import DataLoader

from trainer.errors import BadMachine
from trainer.strategies.lightning import lightning_precision, lightning_strategy
from trainer.strategies.machine.plan import Plan
from trainer.strategies.weights import full_weights

RATE = 2.0**20
"""The learning rate. It is so large that the update is not rounded when it is added to the weights.
It is a power of two, so that its product with the gradient is not rounded either.
"""
TOLERANCE = 1e-4
"""Tolerance for float32 through a whole model. A wrong average over ranks differs by a factor."""


def one_step_gradient(
    module: lightning.LightningModule, batch: Any, plan: Plan, device: str
) -> dict[str, Float64[Tensor, "..."]]:
    """Returns the full gradients of all trained parameters by name, as one step applies them.

    The step uses the strategy of the plan. The result is the same on every rank.

    All ranks of the plan call it in their process group, each with its own part of the batch, which
    stays on the CPU. The step runs through Lightning in float32, with the module's `training_step`
    and clipping. The optimizer of the module is replaced, and its weights are useless afterwards.
    """
    plan = _in_float32(plan)
    module.configure_optimizers = MethodType(_gradient_descent, module)  # type: ignore[method-assign]
    weights_before = full_weights(module)
    lightning_trainer = lightning.Trainer(
        accelerator=device,
        strategy=lightning_strategy(plan, device),
        plugins=[lightning_precision(plan, "fp32", device)],
        devices=plan.ranks_per_node,
        num_nodes=plan.nodes,
        use_distributed_sampler=False,
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    lightning_trainer.fit(module, datamodule=_OneBatch(batch))
    weights_after = full_weights(module)
    return {
        name: (weight.double() - weights_after[name].double()) / RATE
        for name, weight in weights_before.items()
    }


def plain_gradient(
    module: torch.nn.Module, loss: Callable[[], Float[Tensor, ""]]
) -> dict[str, Float64[Tensor, "..."]]:
    """Returns the gradients of all trained parameters by name, computed in this process without a
    strategy.
    """
    parameters = {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    gradients = torch.autograd.grad(
        loss(), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return {
        name: gradient.cpu().double() for name, gradient in zip(parameters, gradients, strict=True)
    }


@dataclass(frozen=True)
class GradientComparison:
    """A gradient compared with a reference, whose norm is `norm`.

    Equal gradients have ratio and cosine 1; so have two gradients that are zero.
    """

    norm: float
    norm_ratio: float
    cosine: float

    @property
    def is_equal(self) -> bool:
        """True within TOLERANCE; False if a number is NaN."""
        return abs(self.norm_ratio - 1) <= TOLERANCE and 1 - self.cosine <= TOLERANCE


def compare_gradients(
    gradient: Mapping[str, Float[Tensor, "..."]], reference: Mapping[str, Float[Tensor, "..."]]
) -> GradientComparison:
    """Compares two gradients, each as one vector over all its weights.

    Raises BadMachine if they are not of the same weights.

    >>> reference = {"weight": torch.tensor([3.0, 4.0])}
    >>> compare_gradients({"weight": torch.tensor([6.0, 8.0])}, reference)
    GradientComparison(norm=5.0, norm_ratio=2.0, cosine=1.0)
    """
    if missing := gradient.keys() ^ reference.keys():
        raise BadMachine(
            f"the strategy trains other weights than one process: {len(missing)} differ, such as"
            f" {min(missing)}; report this, it is a bug"
        )
    pairs = [
        (gradient[name].double().flatten(), reference[name].double().flatten())
        for name in reference
    ]
    gradient_square, reference_square, product = (
        torch.stack(sums).sum()
        for sums in zip(*((a @ a, b @ b, a @ b) for a, b in pairs), strict=True)
    )
    if gradient_square == reference_square == 0:
        return GradientComparison(0.0, 1.0, 1.0)
    return GradientComparison(
        float(reference_square.sqrt()),
        float((gradient_square / reference_square).sqrt()),
        float(product / (gradient_square * reference_square).sqrt()),
    )


def _in_float32(plan: Plan) -> Plan:
    if plan.deepspeed is None:
        return plan
    return replace(
        plan,
        precision=None,
        deepspeed={key: value for key, value in plan.deepspeed.items() if key != "fp16"},
    )


def _gradient_descent(module: lightning.LightningModule) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [parameter for parameter in module.parameters() if parameter.requires_grad], lr=RATE
    )


class _OneBatch(lightning.LightningDataModule):
    """One batch, which stays on its device."""

    def __init__(self, batch: Any) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return batch
