"""The section `model`: the backbone, and how a text becomes vectors or a score."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from trainer.recipe.schema.section import NonNegativeInt, Ratio, Section
from trainer.recipe.schema.sparse import QueryTableSection


class LoraTuning(Section):
    """Low-rank adapters on the frozen backbone (LoRA, Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = Field(32, description="rank of each adapter")
    alpha: PositiveFloat = Field(64.0, description="the update is multiplied by alpha / rank")
    dropout: Ratio = Field(0.0, description="dropout before each adapter, in training only")
    target_modules: tuple[str, ...] | None = Field(
        None, description="names of the linear layers to adapt; null: all linear layers"
    )
    rslora: bool = Field(
        False, description="rank-stabilised LoRA: multiply by alpha / sqrt(rank) instead"
    )
    dora: bool = Field(False, description="DoRA: learn magnitude and direction separately")
    quantize_4bit: bool = Field(
        False,
        description="QLoRA: keep the frozen backbone in 4 bits; needs bitsandbytes and a GPU",
    )


class FullTuning(Section):
    """All weights of the backbone are trained."""

    kind: Literal["full"] = "full"


class ModelSection(Section):
    """The common keys of all models."""

    backbone: str = Field(
        description=(
            "folder or hub name of a Hugging Face encoder or a sentence-transformers model"
            " (image_text without image_tower: a CLIP or SigLIP checkpoint)"
        )
    )
    query_prompt: str | None = Field(
        None,
        description=(
            'text before each query, such as "query: "; null: as in the model folder, else none'
        ),
    )
    document_prompt: str | None = Field(
        None,
        description="text before each document; null: as in the model folder, else none",
    )
    query_max_length_tokens: PositiveInt | None = Field(
        None,
        description=(
            "longer queries are cut; special tokens count; null: as in the model folder, else the"
            " backbone's limit"
        ),
    )
    document_max_length_tokens: PositiveInt | None = Field(
        None,
        description=(
            "longer documents are cut (cross_encoder: longer pairs); special tokens count; null: as"
            " in the model folder, else the backbone's limit"
        ),
    )
    dropout: Ratio | None = Field(
        0.0, description="dropout in the backbone, in training only; null: the backbone's own"
    )
    tuning: Annotated[LoraTuning | FullTuning, Field(discriminator="kind")] = Field(
        LoraTuning(), description="which weights are trained"
    )
    activation_checkpointing: bool = Field(
        False,
        description=(
            "compute each layer again in the backward pass, which needs less memory and 1/3 more"
            " time"
        ),
    )

    @property
    def base_models(self) -> dict[str, str]:
        """The models that training starts from, by their keys."""
        return {"model.backbone": self.backbone}

    @property
    def base_names(self) -> str:
        """The models that training starts from, in words."""
        return " and ".join(self.base_models.values())

    @property
    def quantizes_4bit(self) -> bool:
        """True if the frozen backbone is in 4 bits (QLoRA)."""
        return isinstance(self.tuning, LoraTuning) and self.tuning.quantize_4bit


class VectorModel(ModelSection):
    """The common keys of models that return vectors."""

    layers: PositiveInt | tuple[NonNegativeInt, ...] | None = Field(
        None,
        description=(
            "layers of the backbone to keep: a list of layer numbers from 0, or N for N layers at"
            " even distances; null: all"
        ),
    )


class StaticSection(Section):
    """A static model: a table with one vector per token. The vector of a text is the mean of its
    token vectors. Without a transformer, it encodes about 90 times as fast as MiniLM on a CPU.
    """

    dimensions: PositiveInt = Field(
        256,
        description=(
            "width of a vector; wider vectors of the backbone are reduced by principal components"
        ),
    )
    start: Literal["vocabulary", "token_embeddings"] = Field(
        "vocabulary",
        description=(
            "initial vector of a token: the backbone's output for only that token, or its row of"
            " the input embeddings"
        ),
    )


class BiEncoderModel(VectorModel):
    """A model of one vector per text: a backbone, pooling, and optionally a projection."""

    pooling: Literal["mean", "cls", "last_token", "weighted_mean"] | None = Field(
        None,
        description=(
            "how the token vectors become one vector; null: as in the model folder, else last_token"
            " for decoders and mean for other models"
        ),
    )
    normalize: bool | None = Field(
        None,
        description="scale each vector to length 1; null: as in the model folder, else true",
    )
    projection_dimensions: PositiveInt | None = Field(
        None,
        description=(
            "width of a linear layer after the backbone; null: as in the model folder, else no such"
            " layer"
        ),
    )
    projection_start: Literal["orthogonal", "pca"] = Field(
        "orthogonal",
        description=(
            "initial value of a new projection: random directions, or the principal components of"
            " training texts"
        ),
    )
    static: StaticSection | None = Field(
        None,
        description=(
            "train a table of token vectors made from the backbone; null: train the backbone"
        ),
    )

    @model_validator(mode="after")
    def _projection_has_a_width(self) -> Self:
        if self.projection_start == "pca" and self.projection_dimensions is None:
            raise ValueError(
                "model.projection_start=pca is for a new projection, but there is none; set its"
                " width with model.projection_dimensions"
            )
        return self

    @model_validator(mode="after")
    def _static_model_has_no_transformer(self) -> Self:
        if self.static is None:
            return self
        if not isinstance(self.tuning, FullTuning):
            raise ValueError(
                "model.static has no layers for an adapter, and its whole table is trained; set"
                " model.tuning.kind to full"
            )
        for key, value in (
            ("pooling", self.pooling),
            ("layers", self.layers),
            ("projection_dimensions", self.projection_dimensions),
            ("query_max_length_tokens", self.query_max_length_tokens),
            ("document_max_length_tokens", self.document_max_length_tokens),
        ):
            if value is not None:
                raise ValueError(
                    f"model.static is the mean over all tokens of a text, but model.{key} belongs"
                    " to a transformer; remove one of them"
                )
        if self.activation_checkpointing:
            raise ValueError(
                "model.static has no layers to compute again; set model.activation_checkpointing"
                " to false"
            )
        return self


class LateInteractionSection(Section):
    """How a text becomes one vector per token (ColBERT, Khattab & Zaharia 2020). For each key, null
    means: as in the model folder, else the default in brackets.
    """

    query_marker: str | None = Field(
        None,
        description=(
            "token before each query, '' for none (default: [unused0] if the vocabulary has it)"
        ),
    )
    document_marker: str | None = Field(
        None,
        description=(
            "token before each document, '' for none (default: [unused1] if the vocabulary has it)"
        ),
    )
    query_expansion: bool | None = Field(
        None,
        description=(
            "fill each query up to query_max_length_tokens with mask tokens, and score these too"
            " (default: true if there is a mask token)"
        ),
    )
    attend_to_expansion: bool | None = Field(
        None, description="other tokens attend to these mask tokens (default: false)"
    )
    skip_punctuation: bool | None = Field(
        None, description="punctuation in documents gets no vector (default: true)"
    )


class ColBERTModel(VectorModel):
    """A model of one vector per token, each of length 1."""

    projection_dimensions: PositiveInt | None = Field(
        None,
        description=(
            "width of the linear layer after the backbone; null: as in the model folder, else 128"
        ),
    )
    late_interaction: LateInteractionSection = Field(
        LateInteractionSection(), description="how texts become token vectors"
    )

    @field_validator("late_interaction", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: object) -> object:
        """Accepts null, which earlier versions wrote for a section of defaults."""
        return {} if value is None else value


class SparseModel(VectorModel):
    """A model of one weight per word of the vocabulary. Its backbone is a masked language model."""

    query_table: QueryTableSection | None = Field(
        None,
        description=(
            "encode queries by a table in place of the model; null: as in the model folder, else"
            " by the model"
        ),
    )


class CrossEncoderModel(ModelSection):
    """A model of one score per pair of query and document, which it encodes together."""
