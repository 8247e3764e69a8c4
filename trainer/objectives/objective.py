"""The interface of all objectives: functions from batch, encoder and temperature to a loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from trainer.batch import Batch
from trainer.microbatches import Encode

TemperatureValue = Float[Tensor, ""] | float
"""The divisor of scores."""


@dataclass(frozen=True)
class Outcome:
    """The loss of one step, and further values for the log."""

    loss: Float[Tensor, ""]
    metrics: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


@runtime_checkable
class Objective(Protocol):
    """Encodes and scores a batch, and returns the loss of the global batch on every rank."""

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of `batch`, with a gradient to the parameters that `encode` trains."""
