"""AdamW with a rate for each kind of weight, and the schedule of those rates."""

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
    """Rates are peak rates; steps are optimizer steps."""

    learning_rate: float
    head_learning_rate: float
    temperature_learning_rate: float
    weight_decay: float
    schedule: Schedule
    warmup_steps: int
    total_steps: int
    fused: bool = True
    """One kernel for all weights. Not with fp16: it unscales gradients itself, after they have been
    clipped.
    """


def rate_factor(step: int, warmup_steps: int, total_steps: int, schedule: Schedule) -> float:
    """The share of the peak rate at `step`, counted from 0: rises to 1 over the warm-up, then falls
    to 0 at `total_steps`.

    >>> [rate_factor(step, 2, 6, "linear") for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, 1.0 - done)
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        case _:
            assert_never(schedule)


def is_projection(name: str) -> bool:
    """Whether the weight of this name is the projection's, which has the head's rate."""
    return name.startswith("projection.")


def adamw(
    encoder: nn.Module,
    temperature: nn.Module,
    settings: OptimizerSettings,
    head: nn.Module | None = None,
    is_head: Callable[[str], bool] = is_projection,
) -> OptimizerLRSchedulerConfig:
    """What Lightning's `configure_optimizers` returns. Weight decay is for matrices alone.

    Weights of the encoder whose name `is_head` have the head's rate, as those of `head` do.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            rate = settings.head_learning_rate if is_head(name) else settings.learning_rate
            groups.setdefault(
                (rate, settings.weight_decay if parameter.ndim > 1 else 0.0), []
            ).append(parameter)
    for parameter in head.parameters() if head is not None else ():
        groups.setdefault(
            (settings.head_learning_rate, settings.weight_decay if parameter.ndim > 1 else 0.0), []
        ).append(parameter)
    for parameter in temperature.parameters():
        if parameter.requires_grad:
            groups.setdefault((settings.temperature_learning_rate, 0.0), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        fused=settings.fused,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: rate_factor(
            step, settings.warmup_steps, settings.total_steps, settings.schedule
        ),
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
