"""A smaller model cut out of one that was trained for it (`matryoshka`): its first layers, the
beginnings of its vectors. It is saved as any model is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from trainer.errors import BadFolder, BadModel, BadRecipe
from trainer.models.encoder import Encoder, VectorEncoder
from trainer.models.families import read_model
from trainer.models.formats.folder import check_model_folder, save_encoder
from trainer.models.parts.depth import depth_of
from trainer.models.parts.kept_layers import shorten
from trainer.models.parts.lora import blocks

CutEncoder = TypeVar("CutEncoder", bound=Encoder)


def read_cut(path_or_name: str, layers: int | None, dimensions: int | None) -> VectorEncoder:
    """As `read_model`; of the backbone only the first layers, of each vector only the first
    numbers. None: all.

    Raises BadModel where there are fewer, and for a width where the model gives one vector per
    token.
    """
    encoder = read_model(path_or_name)
    if layers is not None:
        encoder = first_layers(encoder, layers)
    if dimensions is None:
        return encoder
    return encoder.narrowed_for_good(dimensions)


@dataclass(frozen=True)
class CutModel:
    """A smaller model as it was written. It prints as one line."""

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
    """Writes what `read_cut` returns to a model folder. Raises BadRecipe when nothing is to be cut,
    BadFolder when `folder` holds something (with `replace`: something other than a model).
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
    """The encoder, read for use, cut to its first layers. Raises BadModel for more than there
    are.
    """
    whole = depth_of(encoder)
    if layers > whole:
        raise BadModel(f"{layers} layers were asked for; the model has {whole}")
    del blocks(encoder.backbone)[layers:]
    for config in (encoder.pristine_config, encoder.backbone.config):
        shorten(config, range(layers))  # type: ignore[arg-type]
    kept = (encoder.contract.layers or tuple(range(whole)))[:layers]
    encoder.contract = encoder.contract.model_copy(update={"layers": kept})
    return encoder
