"""Models between one and what was trained from it (Wortsman et al. 2022)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from trainer.errors import BadFolder, BadModel
from trainer.models.encoder import Encoder
from trainer.models.families import read_any
from trainer.models.formats.folder import check_model_folder, save_encoder


def interpolate(
    base: Mapping[str, Shaped[Tensor, "..."]],
    tuned_weights: Mapping[str, Shaped[Tensor, "..."]],
    share: float,
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns base + share (tuned - base) of each weight (Wortsman et al. 2022).

    The change of a LoRA adapter is the product B A, and B is zero before training. So A is that
    after training, and B alone is scaled.

    >>> base, tuned_weights = {"bias": torch.tensor([1.0])}, {"bias": torch.tensor([2.0])}
    >>> interpolate(base, tuned_weights, 0.25)
    {'bias': tensor([1.2500])}
    """
    if share in (0.0, 1.0):
        return dict(tuned_weights if share else base)
    return {
        name: weight if "lora_A" in name else torch.lerp(base[name], weight, share)
        for name, weight in tuned_weights.items()
    }


@dataclass(frozen=True)
class BlendedModel:
    """A model that was written. It prints as one line."""

    folder: Path
    share: float
    difference: float
    """The norm of the difference of the two models' weights, divided by that of the first."""

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.share:g} of the way; the two models differ by"
            f" {self.difference:.2%} of the weights' norm"
        ).replace("%", " %")


def write_blend(
    base: str, tuned_model: str, share: float, folder: Path, replace: bool = False
) -> BlendedModel:
    """Writes the model with the weights base + share (tuned - base). The rest is of the tuned one.

    Raises BadModel when the weights are equal, or do not have the same names and shapes, and
    BadFolder when `folder` exists (with `replace`: holds something other than a model, or one of
    the two).
    """
    check_model_folder(folder, replace)
    for model in (base, tuned_model):
        if Path(model).exists() and Path(model).resolve().is_relative_to(folder.resolve()):
            raise BadFolder(f"{folder} holds {model}, and would replace it; give another folder")
    first, last = read_any(base), read_any(tuned_model)
    _check_alike(first, last, base, tuned_model)
    weights, tuned_weights = dict(first.named_parameters()), dict(last.named_parameters())
    with torch.no_grad():
        squares = torch.tensor([0.0, 0.0], dtype=torch.float64)
        for name, weight in interpolate(weights, tuned_weights, share).items():
            change, start = tuned_weights[name] - weights[name], weights[name]
            squares += torch.stack([change.double().square().sum(), start.double().square().sum()])
            tuned_weights[name].copy_(weight)
    if not squares[0]:
        raise BadModel(
            f"{base} and {tuned_model} have equal weights, so there is nothing between them; give a"
            " model and the one that was trained from it"
        )
    save_encoder(last, folder, replace)
    change_square, start_square = squares.tolist()
    return BlendedModel(folder, share, (change_square / start_square) ** 0.5)


def _check_alike(first: Encoder, last: Encoder, base: str, tuned_model: str) -> None:
    shapes, tuned_shapes = (
        {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        for model in (first, last)
    )
    if shapes == tuned_shapes:
        return
    names = sorted(
        name
        for name in shapes.keys() | tuned_shapes.keys()
        if shapes.get(name) != tuned_shapes.get(name)
    )
    sizes = (shapes.get(names[0], "missing"), tuned_shapes.get(names[0], "missing"))
    raise BadModel(
        f"{base} and {tuned_model} have different weights ({len(names)}, first {names[0]}:"
        f" {sizes[0]} and {sizes[1]}); give a model and the one that was trained from it"
    )
