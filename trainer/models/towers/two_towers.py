"""Two towers put together: a model of images and one of texts, each with a linear projection into
one space. The text tower may be any sentence-embedding model.

The classes are those of transformers' VisionTextDualEncoderModel. That one takes its text vectors
from the pooler of BERT, which sentence-embedding models do not train. So captions are pooled here,
as the text model was trained to do, and then projected.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from trainer.errors import BadModel
from trainer.kernels.attention import use_attention
from trainer.kernels.cpu_linear import use_onednn
from trainer.models.contracts.image_text import ImageTextContract
from trainer.models.files.locate import locate
from trainer.models.files.vetting import read_json
from trainer.models.formats import sentence_transformers
from trainer.models.formats.image_processor import (
    TWO_TOWERS_CARD,
    write_image_processor,
)
from trainer.models.loading import Family, build_for_training
from trainer.models.parts import backbone as backbones
from trainer.models.parts.loaded_backbone import LoadedBackbone
from trainer.models.parts.packed import MicroBatch, use_packing
from trainer.models.parts.pooling import pool
from trainer.models.tokenizers import texts as tokenization
from trainer.models.towers.checkpoint import (
    TOWERS,
    ImageTextLayout,
    ImageTextSettings,
    Tower,
    contract_fields,
    freeze,
    read_configs,
    stored_layout,
)
from trainer.models.towers.image_text import ImageTextEncoder, build_image_text_encoder, unit
from trainer.models.towers.vision import NewTower, StoredTower, load_tower, tower_sizes

DIMENSIONS = 256
"""Default width of the projections."""
_MODEL_TYPE = "vision-text-dual-encoder"
_CONFIGS = ("text_config", "vision_config")
_PROJECTIONS = ("visual_projection", "text_projection")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True)
class TwoTowerSettings(ImageTextSettings):
    """The settings of two towers. `backbone` is the text model."""

    image_tower: StoredTower | NewTower = field(default_factory=NewTower)
    projection_dimensions: int = DIMENSIONS
    """Dimensions of the space in which captions and images are compared."""

    @property
    def new_parts(self) -> tuple[str, ...]:
        """The parts of the model whose weights are random at first."""
        has_new_tower = isinstance(self.image_tower, NewTower)
        return (*_PROJECTIONS, *(["vision_model"] if has_new_tower else []))

    @property
    def whole_parts(self) -> tuple[str, ...]:
        """The parts whose weights are all trained, also where others get LoRA."""
        tower = self.image_tower
        is_whole = isinstance(tower, StoredTower) and tower.is_fully_trained
        parts = (*self.new_parts, *(["vision_model"] if is_whole else []))
        return tuple(part for part in parts if part not in self.frozen_parts)

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """The tower that keeps its weights. Its projection is new, so it is trained."""
        return TOWERS[self.frozen_tower][:1] if self.frozen_tower else ()


class TwoTowerEncoder(ImageTextEncoder):
    """Encodes captions and images with two models that were put together."""

    CARD = TWO_TOWERS_CARD
    HAS_ADAPTER_FOLDER = False  # an adapter names one base model, and these are two

    def __init__(
        self,
        backbone: nn.Module,
        contract: ImageTextContract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
        frozen_tower: Tower | None = None,
        new_parts: tuple[str, ...] = (),
        whole_parts: tuple[str, ...] = (),
    ) -> None:
        super().__init__(backbone, contract, tokenizer, pristine_config, frozen_tower)
        self._new_parts, self._whole_parts = new_parts, whole_parts

    @property
    def text_backbone(self) -> nn.Module:
        """The transformer that reads captions."""
        backbone: Any = self.backbone
        text_model: nn.Module = backbone.text_model  # also inside of an adapter
        return text_model

    def _encode_captions(self, batch: MicroBatch) -> Float[Tensor, "text dimension"]:
        pooling, backbone = self.contract.pooling, cast("Any", self.backbone)
        if pooling is None:  # as transformers does it
            return super()._encode_captions(batch)
        vectors = pool(pooling, self.hidden_states(batch)[-1], batch)
        return unit(backbone.text_projection(vectors))

    def train(self, mode: bool = True) -> "TwoTowerEncoder":
        """Sets the mode of all modules but batch norms. These always use stored statistics, as
        those of a micro-batch would make the gradient depend on how a batch is cut.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BATCH_NORMS):
                module.eval()
        return self

    def adapted_layers(self) -> list[str]:
        """Returns the names of the linear layers that get LoRA."""
        return [
            name for name in super().adapted_layers() if name.split(".")[0] not in self._whole_parts
        ]

    def whole_modules(self) -> tuple[str, ...]:
        """Returns the projections, and the image tower if it is new or fully trained."""
        return self._whole_parts

    def is_head(self, name: str) -> bool:
        """Returns true for a parameter of a new part, which has the learning rate of heads."""
        return not set(self._new_parts).isdisjoint(name.split("."))

    def write_pipeline(self, folder: Path) -> None:
        """Writes the settings of transformers' image processor."""
        is_cropped = self.contract.resize == "shortest_edge"
        write_image_processor(
            folder, self.contract, "CLIP" if is_cropped else "ViT", "VisionTextDualEncoder"
        )


def build_two_tower_encoder(settings: TwoTowerSettings) -> TwoTowerEncoder:
    """Puts the towers that the settings name together, in training mode. Raises BadModel.

    The projections are new, and so are the weights of a `NewTower`.
    """
    family = Family(
        model=TwoTowerEncoder,
        settings=TwoTowerSettings,
        contract=ImageTextContract,
        recognizes=lambda folder: True,
        read_layout=sentence_transformers.read_layout,
        check_readable=lambda folder, layout: None,
        with_adapter=lambda layout, contract, folder: layout,
        assemble=_put_together,
    )
    return build_for_training(family, settings)


def build_stored_towers(settings: ImageTextSettings) -> ImageTextEncoder:
    """Builds the two towers of one checkpoint, in training mode. Raises BadModel."""
    if _recognizes(locate(settings.backbone)):
        return build_for_training(FAMILY, settings)
    return build_image_text_encoder(settings)


def _put_together(
    layout: sentence_transformers.DenseLayout,
    settings: TwoTowerSettings,
    name: str,
    layers: tuple[int, ...] | None,
) -> TwoTowerEncoder:
    if layout.is_static or layout.projection is not None:
        part = "a table without a transformer" if layout.is_static else "a projection of its own"
        raise BadModel(
            f"{settings.backbone} has {part}, so it cannot be a text tower; give another"
        )
    text = LoadedBackbone(layout.backbone, layout.lower_case, settings.dropout)
    pooling = layout.pooling or ("last_token" if text.decoder else "mean")
    if pooling == "last_token" and text.decoder and not layout.is_pipeline:
        tokenization.append_end_token(text.tokenizer)
    image = load_tower(settings.image_tower, settings.dropout)
    contract = ImageTextContract(
        **text.contract_fields(layout, settings, name, None)
        | {"document_prompt": "", "document_max_length_tokens": image.patches}
        | image.image_fields,
        dimensions=settings.projection_dimensions,
        pooling=pooling,
        image_backbone=image.name,
    )
    dimensions = settings.projection_dimensions
    config = _joint_config(image.model.config, text.model.config, dimensions)
    model = VisionTextDualEncoderModel(config, image.model, text.model)
    for projection in (model.visual_projection, model.text_projection):
        nn.init.orthogonal_(projection.weight)
    use_onednn(model)
    freeze(model, settings.frozen_parts)
    return TwoTowerEncoder(
        model,
        contract,
        text.tokenizer,
        _joint_config(image.pristine_config, text.pristine_config, dimensions),
        settings.frozen_tower,
        settings.new_parts,
        settings.whole_parts,
    )


def _joint_config(
    image: PretrainedConfig, text: PretrainedConfig, dimensions: int
) -> VisionTextDualEncoderConfig:
    return VisionTextDualEncoderConfig(
        vision_config=image.to_dict(), text_config=text.to_dict(), projection_dim=dimensions
    )


def _recognizes(folder: Path) -> bool:
    if not (folder / "config.json").is_file():
        return False
    return read_json(folder, "config.json").get("model_type") == _MODEL_TYPE


def _assemble(
    layout: ImageTextLayout,
    settings: ImageTextSettings,
    name: str,
    layers: tuple[int, ...] | None,
) -> TwoTowerEncoder:
    folder, contract = layout.backbone, layout.contract
    config, pristine_config = read_configs(folder, settings.dropout)
    attention = {}
    for part in _CONFIGS:
        model_class: Any = MODEL_MAPPING[type(getattr(config, part))]
        attention[part] = "sdpa" if model_class._supports_sdpa else "eager"
    model, missing = backbones.load_into(
        VisionTextDualEncoderModel,
        folder,
        config,
        model_arguments={"attn_implementation": {"": "eager", **attention}},
    )
    text: Any = model.text_model
    pooling = contract.pooling if contract else None
    if pooling is not None:  # BERT's pooler has no use
        missing = [name for name in missing if not name.startswith("text_model.pooler.")]
        text.pooler = None
    if missing or (pooling is None and getattr(text, "pooler", None) is None):
        lack = f"{missing[0]} and {len(missing) - 1} other weights" if missing else "a text pooler"
        raise BadModel(f"{folder} lacks {lack}; take the whole folder from where it was saved")
    use_onednn(model)
    if use_attention(text) and pooling is not None:
        use_packing(text)
    tokenizer = tokenization.read_tokenizer(folder, config.text_config)
    tokenization.check_matches(tokenizer, backbones.embedding_rows(text), folder)
    frozen_tower = settings.frozen_tower
    freeze(model, TOWERS[frozen_tower] if frozen_tower else ())
    _, patches = tower_sizes(model.vision_model, layout.image_fields["image_size"])
    fields = contract_fields(layout, settings, name, tokenizer, backbones.longest_input(text))
    contract = ImageTextContract(
        **fields,
        document_max_length_tokens=patches,
        dimensions=config.projection_dim,
        pooling=pooling,
        image_backbone=contract.image_backbone if contract else None,
    )
    return TwoTowerEncoder(model, contract, tokenizer, pristine_config, frozen_tower)


FAMILY = Family(
    model=TwoTowerEncoder,
    settings=ImageTextSettings,
    contract=ImageTextContract,
    recognizes=_recognizes,
    read_layout=stored_layout,
    check_readable=lambda folder, layout: None,
    with_adapter=lambda layout, contract, folder: layout,  # there is no such adapter
    assemble=_assemble,
)
