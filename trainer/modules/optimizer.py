"""AdamW with a learning rate per kind of weight, and the schedule of the rates."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of `adamw`. Rates are peak rates, and steps are optimizer steps."""

    learning_rate: float
    head_learning_rate: float
    temperature_learning_rate: float
    weight_decay: float
    schedule: Schedule
    warmup_steps: int
    total_steps: int
    is_fused: bool = True
    """Whether one kernel updates all weights. It must be False with fp16, because the fused kernel
    unscales gradients itself, after they have been clipped.
    """


def rate_factor(step: int, warmup_steps: int, total_steps: int, schedule: Schedule) -> float:
    """Returns the share of the peak rate at `step`, counted from 0.

    It rises to 1 over the warm-up and then falls to 0 at `total_steps`.

    >>> [rate_factor(step, 2, 6, "linear") for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, 1.0 - progress)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        case _:
            assert_never(schedule)


def is_projection(name: str) -> bool:
    """Returns True for a weight of the projection, which has the learning rate of the head."""
    return name.startswith("projection.")


def adamw(
    encoder: nn.Module,
    temperature: nn.Module,
    settings: OptimizerSettings,
    head: nn.Module | None = None,
    is_head: Callable[[str], bool] = is_projection,
) -> OptimizerLRSchedulerConfig:
    """Returns the result for Lightning's `configure_optimizers`. Only matrices have weight decay.

    The head's learning rate applies to `head` and to the encoder's weights whose name `is_head`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            rate = settings.head_learning_rate if is_head(name) else settings.learning_rate
            groups.setdefault(
                (rate, settings.weight_decay if parameter.ndim > 1 else 0.0), []
            ).append(parameter)
    for parameter in head.parameters() if head is not None else ():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((settings.head_learning_rate, decay), []).append(parameter)
    for parameter in temperature.parameters():
        if parameter.requires_grad:
            groups.setdefault((settings.temperature_learning_rate, 0.0), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        fused=settings.is_fused,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: rate_factor(
            step, settings.warmup_steps, settings.total_steps, settings.schedule
        ),
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
