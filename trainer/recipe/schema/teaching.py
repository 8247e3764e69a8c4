"""The sections `teacher` and `matryoshka`: learning from other models, and several model sizes."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trainer.recipe.schema.section import NonNegativeFloat, Section


class _Teacher(Section):
    """The common keys of all variants of `teacher`. The loss is `objective_weight` x the objective
    + `weight` x the teacher's loss, both means over the batch.
    """

    kind: str
    models: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description=(
            "folders or names of the teachers: bi-encoders, ColBERT or sparse models, with any"
            " tokenizer. They encode the training texts once; their vectors are kept in"
            " `<output>/teachers`"
        )
    )
    weight: PositiveFloat = Field(1.0, description="weight of the teacher's loss")
    objective_weight: NonNegativeFloat = Field(
        1.0, description="weight of the objective; 0: learn only from the teachers"
    )


class DistributionTeacher(_Teacher):
    """KL divergence to the mean of the teachers' distributions over documents (Hinton et al. 2015;
    ColBERTv2, Santhanam et al. 2022).
    """

    kind: Literal["distribution"] = "distribution"
    candidates: Literal["batch", "own"] = Field(
        "batch",
        description=(
            "the distributions are over all documents of the batch, on all ranks, or over each"
            " query's own candidates"
        ),
    )
    temperature: PositiveFloat = Field(0.05, description="the student's scores are divided by it")
    teacher_temperature: PositiveFloat = Field(
        0.05,
        description=(
            "the teachers' scores are divided by it; scores of ColBERT and sparse models are sums"
            " over tokens or words, so they need a larger value"
        ),
    )


class MarginsTeacher(_Teacher):
    """Squared error of the margin between positive and negative against that of the teachers' mean
    scores (MarginMSE, Hofstaetter et al. 2020).
    """

    kind: Literal["margins"] = "margins"


class VectorsTeacher(_Teacher):
    """The vectors of one teacher, with a learned projection if the widths differ (Reimers &
    Gurevych 2020).
    """

    kind: Literal["vectors"] = "vectors"
    distance: Literal["mse", "cosine"] = Field(
        "mse",
        description="mean squared difference of the vector components, or mean of 1 - cosine",
    )

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if len(self.models) > 1:
            raise ValueError(
                "teacher.kind=vectors learns the vectors of one teacher; name one in"
                " teacher.models, or set teacher.kind to distribution"
            )
        return self


BiEncoderTeacher = Annotated[
    DistributionTeacher | MarginsTeacher | VectorsTeacher, Field(discriminator="kind")
]
ColBERTTeacher = Annotated[DistributionTeacher | MarginsTeacher, Field(discriminator="kind")]


_Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
_LAYER_WEIGHTS = Field(None, description="weight of the loss at each of `layers`; null: 1 for each")


class ColBERTMatryoshka(Section):
    """A backbone whose first layers are a model too (Li et al. 2024). The loss is the weighted sum
    over `layers`.
    """

    layers: _Sizes = Field(
        description=(
            "numbers of first layers to train as models, e.g. [6, 3]; the largest must be the"
            " model's own"
        )
    )
    layer_weights: tuple[PositiveFloat, ...] | None = _LAYER_WEIGHTS

    @property
    def width_weights(self) -> dict[int | None, float]:
        """Weight of the loss by width; None: the model's own width."""
        return {None: 1.0}

    @property
    def depth_weights(self) -> dict[int | None, float]:
        """Weight of the loss by number of layers; None: the model's own number."""
        return _weight_of_each(self.layers, self.layer_weights)

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> Self:
        _check_weights("layers", self.layers, "layer_weights", self.layer_weights)
        return self


class BiEncoderMatryoshka(Section):
    """Vectors whose first components are a vector too, and a backbone whose first layers are a
    model too (Kusupati et al. 2022; both together, Li et al. 2024). The loss is the sum over all
    pairs of `layers` and `dimensions`, each times both weights.
    """

    dimensions: _Sizes | None = Field(
        None,
        description=(
            "widths to train, e.g. [384, 192, 96]; the largest must be the model's own; null: only"
            " that one"
        ),
    )
    weights: tuple[PositiveFloat, ...] | None = Field(
        None, description="weight of the loss at each of `dimensions`; null: 1 for each"
    )
    layers: _Sizes | None = Field(
        None,
        description=(
            "numbers of first layers to train as models, e.g. [6, 3]; the largest must be the"
            " model's own; null: only all layers"
        ),
    )
    layer_weights: tuple[PositiveFloat, ...] | None = _LAYER_WEIGHTS

    @property
    def width_weights(self) -> dict[int | None, float]:
        """Weight of the loss by width; None: the model's own width."""
        return _weight_of_each(self.dimensions, self.weights)

    @property
    def depth_weights(self) -> dict[int | None, float]:
        """Weight of the loss by number of layers; None: the model's own number."""
        return _weight_of_each(self.layers, self.layer_weights)

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> Self:
        if self.dimensions is None and self.layers is None:
            raise ValueError(
                "matryoshka has neither dimensions nor layers, so only the whole model would be"
                " trained; set one of them, or remove matryoshka"
            )
        _check_weights("dimensions", self.dimensions, "weights", self.weights)
        _check_weights("layers", self.layers, "layer_weights", self.layer_weights)
        return self


def _weight_of_each(
    sizes: Sequence[int] | None, weights: Sequence[float] | None
) -> dict[int | None, float]:
    if sizes is None:
        return {None: 1.0}
    return dict(zip(sizes, weights or (1.0,) * len(sizes), strict=True))


def _check_weights(
    key: str, sizes: Sequence[int] | None, weights_key: str, weights: Sequence[float] | None
) -> None:
    """Raises ValueError unless there is one weight per size, and each size once."""
    count = len(sizes or ())
    if weights is not None and len(weights) != count:
        raise ValueError(
            f"matryoshka.{weights_key} has {len(weights)} weights for {count} {key}; give one"
            " weight for each, or null"
        )
    if repeated_sizes := [size for size, times in Counter(sizes or ()).items() if times > 1]:
        raise ValueError(
            f"matryoshka.{key}={list(sizes or ())} has {repeated_sizes[0]} twice;"
            " give each number once"
        )
