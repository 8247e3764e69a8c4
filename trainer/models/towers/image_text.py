"""Models that compare images with captions: two towers of one CLIP (Radford et al. 2021) or SigLIP
(Zhai et al. 2023) checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipModel,
)

from trainer.batch import Texts, to_device
from trainer.errors import BadModel
from trainer.images.images import Images, read_images
from trainer.models.contracts.image_text import ImageTextContract
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder, role_tokenizers
from trainer.models.files.vetting import read_json
from trainer.models.formats.image_processor import (
    CARD,
    read_image_processor,
    write_image_processor,
)
from trainer.models.formats.layout import TEXT_FIELDS, FolderLayout
from trainer.models.loading import Family, build_for_training, read, required_contract
from trainer.models.parts import backbone as backbones
from trainer.models.parts.loaded_backbone import first_given
from trainer.models.parts.packed import MicroBatch, padded_inputs
from trainer.models.settings import ModelSettings
from trainer.models.tokenizers import texts as tokenization
from trainer.scores import exact
from trainer.vectors.dense import DenseVectors

Tower = Literal["image", "text"]
_ARCHITECTURES: dict[str, tuple[str, type[PreTrainedModel]]] = {
    "clip": ("CLIP", CLIPModel),
    "siglip": ("Siglip", SiglipModel),
}
"""The type in config.json to the name in transformers and its class."""
_TOWERS: dict[Tower, tuple[str, ...]] = {
    "image": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
}


class ImageTextEncoder(VectorEncoder):
    """Encodes captions (role query) and images (role document) into vectors of length 1."""

    vectors = DenseVectors
    CARD = CARD
    _image_mean: Tensor
    _image_std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        contract: ImageTextContract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
        frozen_tower: Tower | None = None,
    ) -> None:
        captions = contract.model_copy(
            update={"document_max_length_tokens": contract.query_max_length_tokens}
        )
        roles = role_tokenizers(tokenizer, captions)
        super().__init__(backbone, None, tokenizer, roles, pristine_config)
        self.contract: ImageTextContract = contract
        self._frozen_tower = frozen_tower
        for name in ("image_mean", "image_std"):
            values = torch.tensor(getattr(contract, name))[:, None, None]
            self.register_buffer(f"_{name}", values, persistent=False)
        # SigLIP reads the last token of a caption that is filled up to the maximum length.
        self._is_filled = pristine_config.model_type == "siglip"

    def tokenize(self, texts: Sequence[str], role: Role) -> Texts:
        """Returns the tokens of captions, or the pixels of the images that `texts` refer to
        (`trainer.images.reference`). Any thread may call it.

        Raises BadText for an image that cannot be decoded.
        """
        contract = self.contract
        if role == "document":
            return read_images(texts, contract.preparation, contract.document_max_length_tokens)
        captions = super().tokenize(texts, role)
        if not self._is_filled:
            return captions
        ids, _ = captions.pad()
        room = contract.query_max_length_tokens - ids.shape[1]
        ids = functional.pad(ids, (0, room), value=captions.pad_token_id)
        return Texts.of(ids.tolist(), captions.identities.tolist(), captions.pad_token_id)

    def uncut_lengths(self, texts: Sequence[str], role: Role) -> Int[Tensor, " text"]:
        """Returns the number of tokens per caption, or of patches per image; nothing is cut off
        an image.
        """
        if role == "query":
            return super().uncut_lengths(texts, role)
        return torch.full((len(texts),), self.contract.document_max_length_tokens)

    def sample_documents(self, count: int, length: int) -> Texts:
        """Returns black images, which cost as much memory as any."""
        size, patches = self.contract.image_size, self.contract.document_max_length_tokens
        pixels = torch.zeros(count, 3, size, size, dtype=torch.uint8)
        return Images.from_pixels(pixels, torch.arange(count), patches)

    def forward(self, texts: Texts) -> Float[Tensor, "text dimension"]:
        """Returns one vector per caption or image, in float32 also under autocast.

        It does not depend on the other ones.
        """
        if isinstance(texts, Images):
            return self._encode_images(texts)
        return self.encode_sorted(texts, self._encode_captions)

    def pack(self, texts: Texts) -> Texts:
        """Returns captions, sorted from long to short, with what the device needs of them; images
        as they are.
        """
        return texts if isinstance(texts, Images) else super().pack(texts)

    def _encode_captions(self, batch: MicroBatch) -> Float[Tensor, "text dimension"]:
        backbone: Any = self.backbone
        return _unit(backbone.get_text_features(**padded_inputs(batch)).pooler_output)

    def _encode_images(self, images: Images) -> Float[Tensor, "image dimension"]:
        backbone: Any = self.backbone
        pixels = to_device(images.pixels, self.device)
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        mean, std = self._image_mean.to(dtype), self._image_std.to(dtype)
        values = (pixels.to(dtype) / 255 - mean) / std
        return _unit(backbone.get_image_features(pixel_values=values).pooler_output)

    def adapted_layers(self) -> list[str]:
        """Returns the names of the linear layers of the towers that are trained, projections
        included.
        """
        frozen_parts = _TOWERS[self._frozen_tower] if self._frozen_tower else ()
        attentions = [
            name
            for name, module in self.backbone.named_modules()
            if isinstance(module, nn.MultiheadAttention)  # reads the weights of its layers itself
        ]
        return [
            name
            for name, module in self.backbone.named_modules()
            if isinstance(module, nn.Linear)
            and name.split(".")[0] not in frozen_parts
            and not any(name.startswith(f"{attention}.") for attention in attentions)
        ]

    def write_pipeline(self, folder: Path) -> None:
        """Writes the settings of transformers' image processor."""
        architecture, _ = _ARCHITECTURES[self.pristine_config.model_type]
        write_image_processor(folder, self.contract, architecture)


def _unit(vectors: Float[Tensor, "text dimension"]) -> Float[Tensor, "text dimension"]:
    return functional.normalize(exact(vectors), dim=-1)


@dataclass(frozen=True, kw_only=True)
class ImageTextSettings(ModelSettings):
    """The settings of a model that compares images with captions."""

    frozen_tower: Tower | None = None
    """The tower that keeps its weights, projection included."""


def build_image_text_encoder(settings: ImageTextSettings) -> ImageTextEncoder:
    """Builds the encoder that the settings describe, in training mode. Raises BadModel."""
    return build_for_training(FAMILY, settings)


def read_image_text_encoder(path_or_name: str) -> ImageTextEncoder:
    """Reads the encoder of a folder or name, in evaluation mode. Raises BadModel."""
    return read(FAMILY, path_or_name)


@dataclass(frozen=True, slots=True)
class ImageTextLayout(FolderLayout):
    """The settings in the folder of a checkpoint, or of an adapter and its checkpoint."""

    image_fields: dict[str, Any] = field(default_factory=dict)


def _recognizes(folder: Path) -> bool:
    if ImageTextContract.describes(folder):
        return True
    if not (folder / "config.json").is_file():
        return False
    return read_json(folder, "config.json").get("model_type") in _ARCHITECTURES


def _read_layout(folder: Path) -> ImageTextLayout:
    if not _recognizes(folder):
        raise BadModel(
            f"{folder} is no {' or '.join(name for name, _ in _ARCHITECTURES.values())} checkpoint,"
            " which kind image_text needs; give one that transformers has saved"
        )
    contract = ImageTextContract.read(folder)
    if contract is None:
        return ImageTextLayout(folder, image_fields=read_image_processor(folder))
    return _as_contract_says(ImageTextLayout(folder), contract)


def _as_contract_says(layout: ImageTextLayout, contract: ImageTextContract) -> ImageTextLayout:
    names = ("image_size", "resize_to", "resize", "resample", "image_mean", "image_std")
    images = contract.model_dump(include=set(names))
    texts = contract.model_dump(include=TEXT_FIELDS - {"document_max_length_tokens"})
    return replace(layout, contract=contract, image_fields=images, **texts)


def _assemble(
    layout: ImageTextLayout,
    settings: ImageTextSettings,
    name: str,
    layers: tuple[int, ...] | None,
) -> ImageTextEncoder:
    folder = layout.backbone
    config, pristine_config = (backbones.read_any_config(folder) for _ in range(2))
    if settings.dropout is not None:
        for part in (config.text_config, config.vision_config):
            backbones.set_dropout(part, settings.dropout)
    _, model_class = _ARCHITECTURES[config.model_type]
    backbone, missing = backbones.load_into(model_class, folder, config)
    if missing:
        raise BadModel(f"{folder}: {len(missing)} weights are missing, the first: {missing[0]}")
    tokenizer = tokenization.read_tokenizer(folder, config)
    tokenization.check_matches(tokenizer, config.text_config.vocab_size, folder)
    tower = settings.frozen_tower
    frozen_parts = ("logit_scale", "logit_bias", *(_TOWERS[tower] if tower else ()))
    for weight_name, weight in backbone.named_parameters():
        if weight_name.split(".")[0] in frozen_parts:
            weight.requires_grad_(False)
    contract = _contract(layout, settings, name, config, tokenizer)
    return ImageTextEncoder(backbone, contract, tokenizer, pristine_config, tower)


def _contract(
    layout: ImageTextLayout,
    settings: ImageTextSettings,
    name: str,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> ImageTextContract:
    text, vision, folder = config.text_config, config.vision_config, layout.backbone
    positions, size = text.max_position_embeddings, layout.image_fields["image_size"]
    if size != vision.image_size:
        raise BadModel(
            f"{folder}: the model takes images of {vision.image_size} pixels, but its"
            f" preprocessor_config.json makes {size}; take both from the same model"
        )
    longest = first_given(
        settings.query_max_length_tokens,
        layout.query_max_length_tokens,
        min(positions, tokenizer.model_max_length),
    )
    if longest > positions:
        raise BadModel(
            f"a maximum length of {longest} tokens was requested, but {folder} has only"
            f" {positions} positions; use at most {positions}"
        )
    return ImageTextContract(
        backbone=name,
        query_prompt=first_given(settings.query_prompt, layout.query_prompt, ""),
        query_max_length_tokens=longest,
        document_max_length_tokens=(size // vision.patch_size) ** 2
        + int(config.model_type == "clip"),  # the class token
        dimensions=config.projection_dim if config.model_type == "clip" else vision.hidden_size,
        tokenizer_fingerprint=tokenization.tokenizer_fingerprint(tokenizer),
        **layout.image_fields,
    )


FAMILY = Family(
    model=ImageTextEncoder,
    settings=ImageTextSettings,
    contract=ImageTextContract,
    recognizes=_recognizes,
    read_layout=_read_layout,
    check_readable=lambda folder, layout: None,
    with_adapter=lambda layout, contract, folder: _as_contract_says(
        layout, required_contract(folder, contract)
    ),
    assemble=_assemble,
)
