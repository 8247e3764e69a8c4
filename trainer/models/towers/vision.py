"""Image towers: a vision model of transformers, or a new Vision Transformer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_MAPPING, PretrainedConfig, PreTrainedModel, ViTConfig, ViTModel

from trainer.errors import BadModel
from trainer.models.files.locate import locate
from trainer.models.formats.image_processor import read_image_processor
from trainer.models.loading import public_name
from trainer.models.parts import backbone as backbones

_PATCH_PIXELS = 16
"""Edge of the patches as which an image counts in a tower that has none (a convolutional one)."""


@dataclass(frozen=True)
class StoredTower:
    """A vision model whose weights exist."""

    backbone: str
    """Folder or hub name."""
    is_fully_trained: bool = False
    """Train all its weights also where the other tower gets LoRA."""


@dataclass(frozen=True)
class NewTower:
    """A Vision Transformer (Dosovitskiy et al. 2021) with random weights; sizes in pixels."""

    image_size: int = 64
    patch_size: int = 8
    width: int = 192
    layers: int = 6
    heads: int = 3


@dataclass(frozen=True)
class LoadedTower:
    """A vision model, ready to become a tower."""

    model: PreTrainedModel
    pristine_config: PretrainedConfig
    image_fields: dict[str, Any]
    """The fields of `ImageTextContract` about images."""
    patches: int
    """As how many tokens an image counts."""
    name: str | None
    """What training starts from; None: random weights."""


def load_tower(settings: StoredTower | NewTower, dropout: float | None) -> LoadedTower:
    """Loads or builds an image tower. Raises BadModel."""
    if isinstance(settings, NewTower):
        return _new_tower(settings, dropout)
    folder = locate(settings.backbone)
    config, pristine_config = (_read_config(folder) for _ in range(2))
    if dropout is not None:
        backbones.set_dropout(config, dropout)
    model, missing = backbones.load_into(MODEL_MAPPING[type(config)], folder, config)
    if missing:
        raise BadModel(
            f"{folder}: {len(missing)} weights are missing, the first: {missing[0]}; give a vision"
            " model that was saved with its pooler, such as DINOv2"
        )
    fields = read_image_processor(folder)
    width, patches = tower_sizes(model, fields["image_size"])
    for model_config in (model.config, pristine_config):
        model_config.hidden_size = width  # VisionTextDualEncoderModel reads it
    return LoadedTower(model, pristine_config, fields, patches, public_name(settings.backbone))


def _read_config(folder: Path) -> PretrainedConfig:
    config = backbones.read_any_config(folder)
    model_class: Any = MODEL_MAPPING.get(type(config), None)
    is_joint = hasattr(config, "text_config")
    if model_class is None or model_class.main_input_name != "pixel_values" or is_joint:
        raise BadModel(
            f"{folder}: {config.model_type} is not a model of images alone; as"
            " model.image_tower.backbone give one such as ViT or DINOv2, or give a CLIP or SigLIP"
            " checkpoint as model.backbone and no image tower"
        )
    return config


def _new_tower(settings: NewTower, dropout: float | None) -> LoadedTower:
    config, pristine_config = (
        ViTConfig(
            hidden_size=settings.width,
            intermediate_size=4 * settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            image_size=settings.image_size,
            patch_size=settings.patch_size,
        )
        for _ in range(2)
    )
    if dropout is not None:
        backbones.set_dropout(config, dropout)
    fields = {
        "image_size": settings.image_size,
        "resize_to": settings.image_size,
        "resize": "exact",
        "resample": 3,
        "image_mean": (0.5,) * 3,
        "image_std": (0.5,) * 3,
    }
    model = ViTModel(config).eval()
    _, patches = tower_sizes(model, settings.image_size)
    return LoadedTower(model, pristine_config, fields, patches, None)


@torch.no_grad()
def tower_sizes(model: Any, image_size: int) -> tuple[int, int]:
    """Returns the width of the vector of an image, and as how many tokens an image counts.

    Raises BadModel for a tower that does not take images of this size, or gives no vector.
    """
    try:
        output = model(pixel_values=torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, TypeError) as error:
        raise BadModel(
            f"{type(model).__name__} does not take images of {image_size} pixels, as its"
            f" preprocessor_config.json says: {str(error)[:200]}"
        ) from error
    vectors = getattr(output, "pooler_output", None)
    if vectors is None or vectors.ndim != 2:
        raise BadModel(
            f"{type(model).__name__} gives no single vector of an image (`pooler_output`), so it"
            " cannot be an image tower; give one such as ViT or DINOv2"
        )
    states = output.last_hidden_state
    patches = states.shape[1] if states.ndim == 3 else (image_size // _PATCH_PIXELS) ** 2
    return vectors.shape[1], max(1, patches)
