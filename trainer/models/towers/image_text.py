"""Models that compare images with captions: two towers of one CLIP (Radford et al. 2021) or SigLIP
(Zhai et al. 2023) checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    write_image_processor,
)
from trainer.models.loading import Family, build_for_training, read, required_contract
from trainer.models.parts import backbone as backbones
from trainer.models.parts.packed import MicroBatch, padded_inputs
from trainer.models.tokenizers import texts as tokenization
from trainer.models.towers.checkpoint import (
    TOWERS,
    ImageTextLayout,
    ImageTextSettings,
    Tower,
    as_contract_says,
    contract_fields,
    freeze,
    read_configs,
    stored_layout,
)
from trainer.scores import exact
from trainer.vectors.dense import DenseVectors

_ARCHITECTURES: dict[str, tuple[str, type[PreTrainedModel]]] = {
    "clip": ("CLIP", CLIPModel),
    "siglip": ("Siglip", SiglipModel),
}
"""The type in config.json to the name in transformers and its class."""
_SLICE_IMAGES, _SLICE_BYTES = 512, 1 << 26
"""The largest number of images that are decoded ahead of their encoding, and of their bytes."""


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

    @property
    def encodes_images(self) -> bool:
        """True: the documents are references to images."""
        return True

    def texts_per_slice(self, role: Role) -> int:
        """Returns how many captions are tokenised, or images decoded, ahead of their encoding."""
        if role == "query":
            return super().texts_per_slice(role)
        return max(1, min(_SLICE_IMAGES, _SLICE_BYTES // (3 * self.contract.image_size**2)))

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
        return unit(backbone.get_text_features(**padded_inputs(batch)).pooler_output)

    def _encode_images(self, images: Images) -> Float[Tensor, "image dimension"]:
        backbone: Any = self.backbone
        pixels = to_device(images.pixels, self.device)
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        mean, std = self._image_mean.to(dtype), self._image_std.to(dtype)
        values = (pixels.to(dtype) / 255 - mean) / std
        return unit(backbone.get_image_features(pixel_values=values).pooler_output)

    def adapted_layers(self) -> list[str]:
        """Returns the names of the linear layers of the towers that are trained, projections
        included.
        """
        frozen_parts = TOWERS[self._frozen_tower] if self._frozen_tower else ()
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

    def is_head(self, name: str) -> bool:
        """Returns true for a parameter that is new, which has the learning rate of heads."""
        return False

    def keep_scale(self, log_scale: Float[Tensor, " 1"], bias: Float[Tensor, " 1"] | None) -> None:
        """Takes the scale and bias of scores that training learned, as CLIP and SigLIP have them.

        They matter for probabilities, not for rankings.
        """
        learned_values = {"logit_scale": log_scale, "logit_bias": bias}
        for name, buffer in self.backbone.named_buffers():
            value = learned_values.get(name.rpartition(".")[2])
            if value is not None:
                buffer.copy_(value.detach().reshape(buffer.shape))

    def write_pipeline(self, folder: Path) -> None:
        """Writes the settings of transformers' image processor."""
        architecture, _ = _ARCHITECTURES[self.pristine_config.model_type]
        write_image_processor(folder, self.contract, architecture)


def unit(vectors: Float[Tensor, "text dimension"]) -> Float[Tensor, "text dimension"]:
    """Returns the vectors with length 1, in float32 or better."""
    return functional.normalize(exact(vectors), dim=-1)


def build_image_text_encoder(settings: ImageTextSettings) -> ImageTextEncoder:
    """Builds the encoder that the settings describe, in training mode. Raises BadModel."""
    return build_for_training(FAMILY, settings)


def read_image_text_encoder(path_or_name: str) -> ImageTextEncoder:
    """Reads the encoder of a folder or name, in evaluation mode. Raises BadModel."""
    return read(FAMILY, path_or_name)


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
            " which kind image_text needs; give one that transformers has saved, or put two models"
            " together with model.image_tower"
        )
    return stored_layout(folder)


def _assemble(
    layout: ImageTextLayout,
    settings: ImageTextSettings,
    name: str,
    layers: tuple[int, ...] | None,
) -> ImageTextEncoder:
    folder = layout.backbone
    config, pristine_config = read_configs(folder, settings.dropout)
    _, model_class = _ARCHITECTURES[config.model_type]
    backbone, missing = backbones.load_into(model_class, folder, config)
    if missing:
        raise BadModel(f"{folder}: {len(missing)} weights are missing, the first: {missing[0]}")
    text, vision = config.text_config, config.vision_config
    tokenizer = tokenization.read_tokenizer(folder, config)
    tokenization.check_matches(tokenizer, text.vocab_size, folder)
    tower = settings.frozen_tower
    freeze(backbone, TOWERS[tower] if tower else ())
    size, is_clip = layout.image_fields["image_size"], config.model_type == "clip"
    if size != vision.image_size:
        raise BadModel(
            f"{folder}: the model takes images of {vision.image_size} pixels, but its"
            f" preprocessor_config.json makes {size}; take both from the same model"
        )
    fields = contract_fields(layout, settings, name, tokenizer, text.max_position_embeddings)
    contract = ImageTextContract(
        **fields,
        document_max_length_tokens=(size // vision.patch_size) ** 2 + int(is_clip),  # class token
        dimensions=config.projection_dim if is_clip else vision.hidden_size,
    )
    return ImageTextEncoder(backbone, contract, tokenizer, pristine_config, tower)


FAMILY = Family(
    model=ImageTextEncoder,
    settings=ImageTextSettings,
    contract=ImageTextContract,
    recognizes=_recognizes,
    read_layout=_read_layout,
    check_readable=lambda folder, layout: None,
    with_adapter=lambda layout, contract, folder: as_contract_says(
        layout, required_contract(folder, contract)
    ),
    assemble=_assemble,
)
