"""The gradient that a strategy really applies: read off the weights, before and after one step of
plain gradient descent.
"""

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
from trainer.strategies.environment import Plan
from trainer.strategies.lightning import lightning_precision, lightning_strategy
from trainer.strategies.weights import full_weights

RATE = 2.0**20
"""So large that the old weights do not round the update; a power of two, so that it rounds nothing
itself.
"""
TOLERANCE = 1e-4
"""Of float32 through a whole model; a wrong average over ranks is off by a factor."""


def one_step_gradient(
    module: lightning.LightningModule, batch: Any, plan: Plan, device: str
) -> dict[str, Float64[Tensor, "..."]]:
    """Name to gradient of everything that `module` trains, whole and the same on every rank, as one
    step under the plan's strategy applies it.

    All ranks of the plan call it inside their process group, each with its own part of the batch,
    which stays on the CPU. The step runs through Lightning in float32; `module` takes part with its
    own `training_step` and clipping, but its optimizer is replaced, and afterwards its weights are
    of no use.
    """
    plan = _in_float32(plan)
    module.configure_optimizers = MethodType(_gradient_descent, module)  # type: ignore[method-assign]
    before = full_weights(module)
    trainer = lightning.Trainer(
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
    trainer.fit(module, datamodule=_OneBatch(batch))
    after = full_weights(module)
    return {name: (before[name].double() - after[name].double()) / RATE for name in before}


def plain_gradient(
    module: torch.nn.Module, loss: Callable[[], Float[Tensor, ""]]
) -> dict[str, Float64[Tensor, "..."]]:
    """Name to gradient of everything that `module` trains, of this process alone: PyTorch's own,
    without any strategy.
    """
    trained = {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    found = torch.autograd.grad(
        loss(), list(trained.values()), allow_unused=True, materialize_grads=True
    )
    return {name: gradient.cpu().double() for name, gradient in zip(trained, found, strict=True)}


@dataclass(frozen=True)
class Likeness:
    """How one gradient stands to another, whose norm is `norm`: equal ones have ratio and cosine 1,
    two of zero too.
    """

    norm: float
    norm_ratio: float
    cosine: float

    @property
    def equal(self) -> bool:
        """Within TOLERANCE; never where a number is NaN."""
        return abs(self.norm_ratio - 1) <= TOLERANCE and 1 - self.cosine <= TOLERANCE


def likeness(
    found: Mapping[str, Float[Tensor, "..."]], wanted: Mapping[str, Float[Tensor, "..."]]
) -> Likeness:
    """Two gradients as one vector each. Raises BadMachine where they are not of the same weights.

    >>> likeness({"weight": torch.tensor([6.0, 8.0])}, {"weight": torch.tensor([3.0, 4.0])})
    Likeness(norm=5.0, norm_ratio=2.0, cosine=1.0)
    """
    if missing := found.keys() ^ wanted.keys():
        raise BadMachine(
            f"the strategy trains other weights than one process: {len(missing)} differ, such as"
            f" {min(missing)}; report this, it is a bug"
        )
    pairs = [(found[name].double().flatten(), wanted[name].double().flatten()) for name in wanted]
    of_found, of_wanted, of_both = (
        torch.stack(sums).sum()
        for sums in zip(*((a @ a, b @ b, a @ b) for a, b in pairs), strict=True)
    )
    if of_found == of_wanted == 0:
        return Likeness(0.0, 1.0, 1.0)
    return Likeness(
        float(of_wanted.sqrt()),
        float((of_found / of_wanted).sqrt()),
        float(of_both / (of_found * of_wanted).sqrt()),
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
    """One batch, left where it is."""

    def __init__(self, batch: Any) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return batch
