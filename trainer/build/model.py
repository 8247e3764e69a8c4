"""The model of a recipe: what the recipe says of it, as the settings of its family."""

from typing import Any, assert_never

from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.encoder import Encoder
from trainer.models.late_interaction import (
    LateInteractionSettings,
    build_late_interaction_encoder,
)
from trainer.models.settings import Lora
from trainer.models.static_student import StaticSettings, build_static_encoder
from trainer.recipe import schema as recipe


def build_model(run: recipe.Recipe) -> Encoder:
    """The model that a recipe trains, in training mode. Raises BadModel."""
    model = run.model
    match run.kind:
        case "bi_encoder":
            if model.static is not None:
                return build_static_encoder(static_settings(model))
            return build_dense_encoder(dense_settings(model))
        case "colbert":
            return build_late_interaction_encoder(late_interaction_settings(model))
        case "cross_encoder":
            return build_cross_encoder(CrossEncoderSettings(**_shared(model)))
        case _:
            assert_never(run.kind)


def dense_settings(model: recipe.Model) -> DenseSettings:
    """The settings of a model of one vector per text."""
    return DenseSettings(
        **_shared(model),
        pooling=model.pooling,
        projection_dimensions=model.projection_dimensions,
        normalize=model.normalize,
    )


def static_settings(model: recipe.Model) -> StaticSettings:
    """The settings of a table of token vectors."""
    assert model.static is not None
    return StaticSettings(
        backbone=model.backbone,
        dimensions=model.static.dimensions,
        start=model.static.start,
        normalize=model.normalize,
        query_prompt=model.query_prompt,
        document_prompt=model.document_prompt,
    )


def late_interaction_settings(model: recipe.Model) -> LateInteractionSettings:
    """The settings of a model of one vector per token."""
    late = model.late_interaction or recipe.LateInteraction()
    return LateInteractionSettings(
        **_shared(model),
        projection_dimensions=model.projection_dimensions,
        query_marker=late.query_marker,
        document_marker=late.document_marker,
        query_expansion=late.query_expansion,
        attend_to_expansion=late.attend_to_expansion,
        skip_punctuation=late.skip_punctuation,
    )


def _shared(model: recipe.Model) -> dict[str, Any]:
    return {
        "backbone": model.backbone,
        "layers": model.layers,
        "query_prompt": model.query_prompt,
        "document_prompt": model.document_prompt,
        "query_max_length_tokens": model.query_max_length_tokens,
        "document_max_length_tokens": model.document_max_length_tokens,
        "dropout": model.dropout,
        "lora": _lora(model.tuning),
        "activation_checkpointing": model.activation_checkpointing,
    }


def _lora(tuning: recipe.Lora | recipe.FullTuning) -> Lora | None:
    match tuning:
        case recipe.Lora():
            return Lora(**tuning.model_dump(exclude={"kind"}))
        case recipe.FullTuning():
            return None
        case _:
            assert_never(tuning)
