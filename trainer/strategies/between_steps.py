"""What the model that is being trained is asked between two steps."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytorch_lightning as lightning
import torch

Result = TypeVar("Result")


def between_steps(trainer: lightning.Trainer, action: Callable[[], Result]) -> Result:
    """What `action` returns, run on all ranks as a validation step is: without gradient, in
    evaluation mode, where shared weights are gathered.

    Afterwards every module is in the mode in which it was.
    """
    module: Any = trainer.lightning_module
    model, results = trainer.model, []
    assert model is not None
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    module.validation_step = lambda: results.append(
        action()
    )  # which the strategy runs inside its own forward
    try:
        with torch.no_grad():
            trainer.strategy.validation_step()
    finally:
        del module.validation_step
        for part, mode in modes:
            part.training = mode
    return results[0]
