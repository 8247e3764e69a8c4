"""Models inside a model, trained together (Matryoshka): the beginnings of its vectors, and its
first layers. One pass through the encoder serves them all.
"""

from collections.abc import Callable, Hashable, Mapping
from itertools import product
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trainer.batch import Batch, Texts
from trainer.microbatches import Encode

Result = TypeVar("Result")
Loss = Callable[[Batch, Encode, Float[Tensor, ""]], dict[str, Float[Tensor, ""]]]
Weights = Mapping[int | None, float]
"""Of the loss by width, or by number of layers; None: the whole."""


def nested(
    widths: Weights,
    depths: Weights,
    objective: Loss,
    normalize: bool,
    batch: Batch,
    encode: Encode,
    temperature: Float[Tensor, ""],
) -> dict[str, Float[Tensor, ""]]:
    """The sum over every number of layers and every width, each by the product of both weights (2D
    Matryoshka, Li et al. 2024).

    `encode` gives the embeddings of all `depths` end to end, in their order
    (`trainer.models.parts.depth.AtDepths`). What else is logged is of the whole.
    """
    encode, total, outcomes = once(encode), [], {}
    for (place, depth), width in product(enumerate(depths), widths):
        inside = shortened(at_place(encode, place, len(depths)), width, normalize)
        outcomes[depth, width] = objective(batch, inside, temperature)
        total.append(depths[depth] * widths[width] * outcomes[depth, width]["loss"])
    whole = outcomes[max(depths, key=_number), max(widths, key=_number)]
    return {
        **whole,
        "loss": torch.stack(total).sum(),
        **{_name(*pair): outcome["loss"] for pair, outcome in outcomes.items()},
    }


def _number(size: int | None) -> int:
    return size or 0  # None stands alone


def _name(depth: int | None, width: int | None) -> str:
    return (
        "loss_at"
        + (f"_{depth}_layers" if depth is not None else "")
        + (f"_{width}" if width is not None else "")
    )


def once(function: Callable[[Any], Result]) -> Callable[[Any], Result]:
    """`function`, such as an encoder, that gives for what it has seen the same again: several
    losses of a step share one pass.
    """
    seen: dict[Hashable, tuple[Any, Result]] = {}

    def remembered(given: Any) -> Result:
        if id(given) not in seen:
            seen[id(given)] = given, function(given)
        return seen[id(given)][1]

    return remembered


def latest(function: Callable[[Batch], Result]) -> Callable[[Batch], Result]:
    """`function` that gives for the batch it was last asked about the same again: what does not
    depend on width or depth is found once a step.
    """
    last: list[Any] = [None, None]

    def remembered(batch: Batch) -> Result:
        if last[0] is not batch:
            last[:] = batch, function(batch)
        return last[1]

    return remembered


def shortened(encode: Encode, dimensions: int | None, normalize: bool) -> Encode:
    """The first `dimensions` numbers of each vector, brought to length 1 again where `normalize`
    (Kusupati et al. 2022); None: all, as they are.
    """
    if dimensions is None:
        return encode

    def begin(texts: Texts) -> Float[Tensor, "text dimension"]:
        beginning = encode(texts)[:, :dimensions]
        return functional.normalize(beginning, dim=-1) if normalize else beginning

    return begin


def at_place(encode: Encode, place: int, places: int) -> Encode:
    """Of `places` embeddings of each text that lie end to end the one at `place`."""
    return lambda texts: encode(texts).chunk(places, -1)[place]
