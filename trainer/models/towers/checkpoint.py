"""Parts that all checkpoints of two towers share: settings, layout of the folder, contract."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedTokenizerBase

from trainer.errors import BadModel
from trainer.models.contracts.image_text import ImageTextContract
from trainer.models.formats.image_processor import read_image_processor
from trainer.models.formats.layout import TEXT_FIELDS, FolderLayout
from trainer.models.parts import backbone as backbones
from trainer.models.parts.loaded_backbone import first_given
from trainer.models.settings import ModelSettings
from trainer.models.tokenizers import texts as tokenization

Tower = Literal["image", "text"]
TOWERS: dict[Tower, tuple[str, ...]] = {
    "image": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
}
"""The parts of the model of which each tower consists."""

IMAGE_FIELDS = ("image_size", "resize_to", "resize", "resample", "image_mean", "image_std")
"""The fields of the contract that say how an image is prepared."""


@dataclass(frozen=True, kw_only=True)
class ImageTextSettings(ModelSettings):
    """The settings of a model that compares images with captions."""

    frozen_tower: Tower | None = None
    """The tower that keeps its weights, projection included."""


@dataclass(frozen=True, slots=True)
class ImageTextLayout(FolderLayout):
    """The settings in the folder of a checkpoint, or of an adapter and its checkpoint."""

    contract: ImageTextContract | None = None
    image_fields: dict[str, Any] = field(default_factory=dict)


def stored_layout(folder: Path) -> ImageTextLayout:
    """Reads the settings in the folder of a model with two towers. Raises BadModel."""
    contract = ImageTextContract.read(folder)
    if contract is None:
        return ImageTextLayout(folder, image_fields=read_image_processor(folder))
    return as_contract_says(ImageTextLayout(folder), contract)


def as_contract_says(layout: ImageTextLayout, contract: ImageTextContract) -> ImageTextLayout:
    """Returns the layout with the settings of `contract`."""
    images = contract.model_dump(include=set(IMAGE_FIELDS))
    texts = contract.model_dump(include=TEXT_FIELDS - {"document_max_length_tokens"})
    return replace(layout, contract=contract, image_fields=images, **texts)


def read_configs(folder: Path, dropout: float | None) -> tuple[Any, Any]:
    """Returns the configuration of a model with two towers, with this dropout and as it is in the
    folder. Raises BadModel.
    """
    config, pristine_config = (backbones.read_any_config(folder) for _ in range(2))
    if dropout is not None:
        for part in (config.text_config, config.vision_config):
            backbones.set_dropout(part, dropout)
    return config, pristine_config


def freeze(backbone: nn.Module, parts: Sequence[str]) -> None:
    """Freezes these parts. The scale and bias of the checkpoint, which training has apart, become
    buffers, because sharded training takes no scalar as a parameter.
    """
    for name, weight in list(backbone.named_parameters()):
        if name in ("logit_scale", "logit_bias"):
            delattr(backbone, name)
            backbone.register_buffer(name, weight.detach())
        elif name.split(".")[0] in parts:
            weight.requires_grad_(False)


def contract_fields(
    layout: ImageTextLayout,
    settings: ImageTextSettings,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    positions: int,
) -> dict[str, Any]:
    """Returns the fields of the contract about captions, for a text tower with that many positions,
    and about the preparation of images. Raises BadModel if there are too few positions.
    """
    longest = first_given(
        settings.query_max_length_tokens,
        layout.query_max_length_tokens,
        min(positions, tokenizer.model_max_length),
    )
    if longest > positions:
        raise BadModel(
            f"a maximum length of {longest} tokens was requested, but {layout.backbone} has only"
            f" {positions} positions; use at most {positions}"
        )
    return {
        "backbone": name,
        "query_prompt": first_given(settings.query_prompt, layout.query_prompt, ""),
        "query_max_length_tokens": longest,
        "tokenizer_fingerprint": tokenization.tokenizer_fingerprint(tokenizer),
        **layout.image_fields,
    }
