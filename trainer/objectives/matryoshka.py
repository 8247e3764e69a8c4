"""Matryoshka: smaller models inside a model are trained together with it. They use the first
dimensions of its vectors or its first layers. One pass through the encoder serves all of them.
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
from trainer.objectives.objective import Objective, Outcome, TemperatureValue

BatchResult = TypeVar("BatchResult")
Weights = Mapping[int | None, float]
"""Weights of the loss by width or by number of layers; None: the full size."""


@dataclass(frozen=True)
class Matryoshka:
    """The sum of an objective over all numbers of layers and all widths, each with the product of
    both weights (Kusupati et al. 2022; over layers and widths, Li et al. 2024).
    """

    objective: Objective
    widths: Weights
    depths: Weights
    normalize: bool
    """Whether each shortened vector is normalized to length 1 again."""

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of the global batch. The other metrics are those of the full model.

        `encode` must return the embeddings of all `depths`, concatenated in their order
        (`trainer.models.parts.depth.AtDepths`).
        """
        encode, weighted_losses = encode_once(encode), []
        outcomes: dict[tuple[int | None, int | None], Outcome] = {}
        for (place, depth), width in product(enumerate(self.depths), self.widths):
            encode_at_depth = _at_place(encode, place, len(self.depths))
            encode_at_size = shorten_vectors(encode_at_depth, width, self.normalize)
            outcome = self.objective(batch, encode_at_size, temperature)
            outcomes[depth, width] = outcome
            weighted_losses.append(self.depths[depth] * self.widths[width] * outcome.loss)
        full = outcomes[max(self.depths, key=_size), max(self.widths, key=_size)]
        sizes = {_name(*size): outcome.loss for size, outcome in outcomes.items()}
        return Outcome(torch.stack(weighted_losses).sum(), {**full.metrics, **sizes})


def _size(size: int | None) -> int:
    return size or 0  # None is the only size if it occurs


def _name(depth: int | None, width: int | None) -> str:
    layers = f"_{depth}_layers" if depth is not None else ""
    return f"loss_at{layers}" + (f"_{width}" if width is not None else "")


def encode_once(encode: Encode) -> Encode:
    """Returns `encode` with a cache for the texts of one step, so that several losses share one
    pass through the encoder.
    """
    cache: dict[Hashable, tuple[Texts, Tensor]] = {}

    def encode_with_cache(texts: Texts) -> Float[Tensor, "text ..."]:
        if id(texts) not in cache:
            cache[id(texts)] = texts, encode(texts)
        return cache[id(texts)][1]

    return encode_with_cache


def once_per_batch(function: Callable[[Batch], BatchResult]) -> Callable[[Batch], BatchResult]:
    """Returns `function` with a cache for the latest batch, so that results that do not depend on
    width or depth are computed once per step.
    """
    last: list[Any] = [None, None]

    def function_with_cache(batch: Batch) -> BatchResult:
        if last[0] is not batch:
            last[:] = batch, function(batch)
        return last[1]

    return function_with_cache


def shorten_vectors(encode: Encode, dimensions: int | None, normalize: bool) -> Encode:
    """Returns `encode` for vectors of the first `dimensions` dimensions (None: all).

    With `normalize` the shortened vectors have length 1 again (Kusupati et al. 2022).
    """
    if dimensions is None:
        return encode

    def encode_shortened(texts: Texts) -> Float[Tensor, "text dimension"]:
        beginning = encode(texts)[:, :dimensions]
        return functional.normalize(beginning, dim=-1) if normalize else beginning

    return encode_shortened


def _at_place(encode: Encode, place: int, places: int) -> Encode:
    """Returns `encode` for the embedding at `place` of the `places` concatenated ones per text."""
    return lambda texts: encode(texts).chunk(places, -1)[place]
