"""Cuts a smaller model out of one that was trained with matryoshka.

It has the first layers, and the first dimensions of vectors. It is saved like any model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from trainer.errors import BadFolder, BadModel, BadRecipe
from trainer.models.encoder import Encoder, VectorEncoder
from trainer.models.families import read_model, read_vector_model, reads_images
from trainer.models.formats.folder import check_model_folder, save_encoder
from trainer.models.parts.depth import depth_of
from trainer.models.parts.kept_layers import shorten
from trainer.models.parts.lora import blocks

CutEncoder = TypeVar("CutEncoder", bound=Encoder)


def read_cut(
    path_or_name: str, layers: int | None, dimensions: int | None, allow_images: bool = False
) -> VectorEncoder:
    """Reads a model with its first `layers` and the first `dimensions` of its vectors (None: all).

    Raises BadModel when there are fewer, for dimensions of a model with token vectors, and, without
    `allow_images`, for a model whose documents are images; BadRecipe for a cut of such a model.
    """
    if allow_images and reads_images(path_or_name):
        if layers is not None or dimensions is not None:
            raise BadRecipe("a model of images is not cut; leave out --layers and --dimensions")
        return read_vector_model(path_or_name)
    encoder = read_model(path_or_name)
    if layers is not None:
        encoder = first_layers(encoder, layers)
    if dimensions is None:
        return encoder
    return encoder.cut_to_dimensions(dimensions)


@dataclass(frozen=True)
class CutModel:
    """A smaller model that was written. It prints as one line."""

    folder: Path
    weights: int
    dimensions: int

    def __str__(self) -> str:
        return f"{self.folder}: {self.weights:,} weights, vectors of {self.dimensions} dimensions"


def write_cut(
    path_or_name: str,
    folder: Path,
    layers: int | None = None,
    dimensions: int | None = None,
    replace: bool = False,
) -> CutModel:
    """Writes the model that `read_cut` returns to a folder.

    Raises BadRecipe when nothing is to be cut, and BadFolder when `folder` exists (with `replace`:
    holds something other than a model).
    """
    if layers is None and dimensions is None:
        raise BadRecipe("nothing is to be cut; give --layers, --dimensions, or both")
    check_model_folder(folder, replace)
    model = Path(path_or_name)
    if model.exists() and model.resolve().is_relative_to(folder.resolve()):
        raise BadFolder(
            f"{folder} holds the model that is to be cut, and would replace it; give another folder"
        )
    encoder = read_cut(path_or_name, layers, dimensions)
    save_encoder(encoder, folder, replace)
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    return CutModel(folder, weights, encoder.dimensions)


def first_layers(encoder: CutEncoder, layers: int) -> CutEncoder:
    """Returns the encoder with its first layers only. Raises BadModel when it has fewer."""
    depth = depth_of(encoder)
    if layers > depth:
        raise BadModel(
            f"{layers} layers were requested, but the model has {depth}; give a smaller number"
        )
    del blocks(encoder.backbone)[layers:]
    for config in (encoder.pristine_config, encoder.backbone.config):
        shorten(config, range(layers))  # type: ignore[arg-type]
    layer_numbers = (encoder.contract.layers or tuple(range(depth)))[:layers]
    encoder.contract = encoder.contract.model_copy(update={"layers": layer_numbers})
    return encoder
