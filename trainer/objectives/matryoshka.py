"""Models inside a model, trained together (Matryoshka): the beginnings of its vectors, and its
first layers. One pass through the encoder serves them all.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trainer.batch import Batch, Texts
from trainer.microbatches import Encode
from trainer.objectives.objective import Objective, Outcome, Temperature

Result = TypeVar("Result")
Weights = Mapping[int | None, float]
"""Of the loss by width, or by number of layers; None: the full size."""


@dataclass(frozen=True)
class Matryoshka:
    """The sum of an objective over every number of layers and every width, each by the product of
    both weights (Kusupati et al. 2022; in both, Li et al. 2024).
    """

    objective: Objective
    widths: Weights
    depths: Weights
    normalize: bool
    """Bring each beginning of a vector to length 1 again."""

    def __call__(self, batch: Batch, encode: Encode, temperature: Temperature) -> Outcome:
        """The loss of the global batch; other metrics are those of the full model.

        `encode` gives the embeddings of all `depths` end to end, in their order
        (`trainer.models.parts.depth.AtDepths`).
        """
        encode, weighted_losses = encode_once(encode), []
        outcomes: dict[tuple[int | None, int | None], Outcome] = {}
        for (place, depth), width in product(enumerate(self.depths), self.widths):
            at_depth = _at_place(encode, place, len(self.depths))
            shortened = shorten_vectors(at_depth, width, self.normalize)
            outcome = self.objective(batch, shortened, temperature)
            outcomes[depth, width] = outcome
            weighted_losses.append(self.depths[depth] * self.widths[width] * outcome.loss)
        full = outcomes[max(self.depths, key=_size), max(self.widths, key=_size)]
        sizes = {_name(*size): outcome.loss for size, outcome in outcomes.items()}
        return Outcome(torch.stack(weighted_losses).sum(), {**full.metrics, **sizes})


def _size(size: int | None) -> int:
    return size or 0  # None stands alone


def _name(depth: int | None, width: int | None) -> str:
    layers = f"_{depth}_layers" if depth is not None else ""
    return f"loss_at{layers}" + (f"_{width}" if width is not None else "")


def encode_once(encode: Encode) -> Encode:
    """`encode`, which gives for texts it has seen the same embeddings again: several losses of one
    step share one pass through the encoder.
    """
    seen: dict[Hashable, tuple[Texts, Tensor]] = {}

    def remembered(texts: Texts) -> Float[Tensor, "text ..."]:
        if id(texts) not in seen:
            seen[id(texts)] = texts, encode(texts)
        return seen[id(texts)][1]

    return remembered


def once_per_batch(function: Callable[[Batch], Result]) -> Callable[[Batch], Result]:
    """`function`, which gives for the batch of the call before the same result again: what does not
    depend on width or depth is found once per step.
    """
    last: list[Any] = [None, None]

    def remembered(batch: Batch) -> Result:
        if last[0] is not batch:
            last[:] = batch, function(batch)
        return last[1]

    return remembered


def shorten_vectors(encode: Encode, dimensions: int | None, normalize: bool) -> Encode:
    """The first `dimensions` numbers of each vector (None: all), brought to length 1 again where
    `normalize` (Kusupati et al. 2022).
    """
    if dimensions is None:
        return encode

    def encode_shortened(texts: Texts) -> Float[Tensor, "text dimension"]:
        beginning = encode(texts)[:, :dimensions]
        return functional.normalize(beginning, dim=-1) if normalize else beginning

    return encode_shortened


def _at_place(encode: Encode, place: int, places: int) -> Encode:
    """Of `places` embeddings of each text that lie end to end the one at `place`."""
    return lambda texts: encode(texts).chunk(places, -1)[place]
