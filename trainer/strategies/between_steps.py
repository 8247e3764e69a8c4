"""Runs an action on the model in training, between two steps."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytorch_lightning as lightning
import torch

T = TypeVar("T")


def run_between_steps(lightning_trainer: lightning.Trainer, action: Callable[[], T]) -> T:
    """Runs `action` on all ranks like a validation step, and returns its result.

    It runs without gradients and in evaluation mode, and the strategy gathers sharded weights.
    Afterwards every module is in its former mode.
    """
    module: Any = lightning_trainer.lightning_module
    model, results = lightning_trainer.model, []
    assert model is not None
    modes = [(submodule, submodule.training) for submodule in model.modules()]
    model.eval()
    # The strategy runs it inside its own forward.
    module.validation_step = lambda: results.append(action())
    try:
        with torch.no_grad():
            lightning_trainer.strategy.validation_step()
    finally:
        del module.validation_step
        for submodule, mode in modes:
            submodule.training = mode
    return results[0]
