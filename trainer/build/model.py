"""The model of a recipe: its section `model` as the settings of its family."""

from typing import TypedDict, assert_never

from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.encoder import Encoder
from trainer.models.late_interaction import (
    LateInteractionSettings,
    build_late_interaction_encoder,
)
from trainer.models.settings import Lora
from trainer.models.static_student import StaticSettings, build_static_encoder
from trainer.recipe.schema.families import (
    BiEncoderRecipe,
    ColBERTRecipe,
    CrossEncoderRecipe,
    Recipe,
)
from trainer.recipe.schema.model import (
    BiEncoderModel,
    ColBERTModel,
    FullTuning,
    LoraTuning,
    ModelSection,
    StaticSection,
)


def build_model(run: Recipe) -> Encoder:
    """The model that a recipe trains, in training mode. Raises BadModel."""
    match run:
        case BiEncoderRecipe():
            if run.model.static is not None:
                return build_static_encoder(static_settings(run.model, run.model.static))
            return build_dense_encoder(dense_settings(run.model))
        case ColBERTRecipe():
            return build_late_interaction_encoder(late_interaction_settings(run.model))
        case CrossEncoderRecipe():
            return build_cross_encoder(CrossEncoderSettings(**_shared_settings(run.model)))
        case _:
            assert_never(run)


def dense_settings(model: BiEncoderModel) -> DenseSettings:
    """The settings of a model of one vector per text."""
    return DenseSettings(
        **_shared_settings(model),
        layers=model.layers,
        pooling=model.pooling,
        projection_dimensions=model.projection_dimensions,
        normalize=model.normalize,
    )


def static_settings(model: BiEncoderModel, static: StaticSection) -> StaticSettings:
    """The settings of a table of token vectors."""
    return StaticSettings(
        backbone=model.backbone,
        dimensions=static.dimensions,
        start=static.start,
        normalize=model.normalize,
        query_prompt=model.query_prompt,
        document_prompt=model.document_prompt,
    )


def late_interaction_settings(model: ColBERTModel) -> LateInteractionSettings:
    """The settings of a model of one vector per token."""
    late = model.late_interaction
    return LateInteractionSettings(
        **_shared_settings(model),
        layers=model.layers,
        projection_dimensions=model.projection_dimensions,
        query_marker=late.query_marker,
        document_marker=late.document_marker,
        query_expansion=late.query_expansion,
        attend_to_expansion=late.attend_to_expansion,
        skip_punctuation=late.skip_punctuation,
    )


class _SharedSettings(TypedDict):
    """The arguments that the settings of all families have."""

    backbone: str
    query_prompt: str | None
    document_prompt: str | None
    query_max_length_tokens: int | None
    document_max_length_tokens: int | None
    dropout: float | None
    lora: Lora | None
    activation_checkpointing: bool


def _shared_settings(model: ModelSection) -> _SharedSettings:
    return {
        "backbone": model.backbone,
        "query_prompt": model.query_prompt,
        "document_prompt": model.document_prompt,
        "query_max_length_tokens": model.query_max_length_tokens,
        "document_max_length_tokens": model.document_max_length_tokens,
        "dropout": model.dropout,
        "lora": _lora(model.tuning),
        "activation_checkpointing": model.activation_checkpointing,
    }


def _lora(tuning: LoraTuning | FullTuning) -> Lora | None:
    match tuning:
        case LoraTuning():
            return Lora(**tuning.model_dump(exclude={"kind"}))
        case FullTuning():
            return None
        case _:
            assert_never(tuning)
