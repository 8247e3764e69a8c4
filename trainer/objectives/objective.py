"""What every objective is: a batch, an encoder and a temperature to a loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from trainer.batch import Batch
from trainer.microbatches import Encode

Temperature = Float[Tensor, ""] | float
"""What scores are divided by."""


@dataclass(frozen=True)
class Outcome:
    """The loss of one step, and what else is worth a line in the log."""

    loss: Float[Tensor, ""]
    metrics: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


@runtime_checkable
class Objective(Protocol):
    """Encode, score, loss. Returns the same on every rank: the loss of the whole global batch."""

    def __call__(self, batch: Batch, encode: Encode, temperature: Temperature) -> Outcome:
        """The loss of `batch`, with a gradient to whatever `encode` trains."""
