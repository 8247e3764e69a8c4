"""The sections `optimization` and `validation`: optimizer, number of steps, and when to measure."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from trainer.recipe.schema.section import NonNegativeFloat, NonNegativeInt, Ratio, Section


class OptimizationSection(Section):
    """AdamW and its schedule."""

    batch_size: Annotated[int, Field(ge=2)] = Field(
        64, description="queries per optimizer step, over all processes"
    )
    epochs: PositiveInt = Field(
        1,
        description=(
            "passes over the training rows; rows that do not fill a batch at the end of a pass are"
            " in one batch with rows of the next pass"
        ),
    )
    min_steps: PositiveInt | None = Field(
        None,
        description=(
            "take at least this many steps, in further passes over rows that are few; null:"
            " `epochs` decides"
        ),
    )
    max_steps: PositiveInt | None = Field(
        None,
        description="stop after this many steps; null: `epochs` and `min_steps` decide",
    )
    learning_rate: PositiveFloat = Field(
        1e-3, description="peak learning rate of the backbone's weights or its LoRA adapters"
    )
    head_learning_rate: PositiveFloat | None = Field(
        None,
        description=(
            "peak learning rate of the projection, the head or the table of queries; null:"
            " `learning_rate`"
        ),
    )
    temperature_learning_rate: PositiveFloat | None = Field(
        None, description="peak learning rate of a learned temperature; null: `learning_rate`"
    )
    weight_decay: NonNegativeFloat = Field(
        0.01,
        description="decoupled weight decay; none on biases, normalisation weights, temperature",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="learning rate after warm-up; cosine and linear end at 0"
    )
    warmup_ratio: Ratio = Field(
        0.1, description="share of all steps in which the learning rate rises from 0"
    )
    warmup_steps: NonNegativeInt | None = Field(
        None, description="the same in steps; null: `warmup_ratio` decides"
    )
    gradient_clip_norm: PositiveFloat | None = Field(
        1.0, description="largest global norm of the gradient; null: no clipping"
    )


class ValidationSection(Section):
    """When nDCG@10 is measured on validation queries, and when the run ends early."""

    every_steps: PositiveInt | None = Field(
        None,
        description=(
            "steps between validations; null: once per epoch (less often if `min_steps` adds"
            " epochs), and before the first of these up to three times more, at quarters of that"
            " time, as long as these cost at most 5 % of the training"
        ),
    )
    patience: PositiveInt | None = Field(
        None,
        description=(
            "stop after this many validations without a better nDCG@10, of which those before the"
            " first regular one do not count if `every_steps` is null; null: never"
        ),
    )
    interpolate: bool = Field(
        False,
        description=(
            "save half of the change by training, so that less is forgotten: the weights halfway"
            " between those from before training and the best ones; another share only where a"
            " paired test on the validation queries proves it better, or half gains nothing there"
        ),
    )


class CrossEncoderValidation(ValidationSection):
    """When nDCG@10 is measured on validation queries, which documents are ranked, and when the run
    ends early.
    """

    first_stage: str | None = Field(
        None,
        description=(
            "folder or name of the model that finds the documents to rank, in validation and test;"
            " null: BM25"
        ),
    )
    rerank_depth: PositiveInt | None = Field(
        None, description="documents to rank per query; null: 20"
    )
