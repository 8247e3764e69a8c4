"""The sections of a sparse model alone: `model.query_table` and `regularizer`."""

from typing import Literal

from pydantic import Field, PositiveInt

from trainer.recipe.schema.section import NonNegativeFloat, Ratio, Section


class QueryTableSection(Section):
    """A table with one weight per word of the vocabulary. A query's vector has the weights of its
    distinct words, so queries need no model.
    """

    start: Literal["idf", "ones"] = Field(
        "idf",
        description=(
            "initial weight of a word: its rarity in the positives of the training rows, or 1; a"
            " table in the model folder is kept"
        ),
    )
    learn_weights: bool = Field(
        True, description="train the weights, with `optimization.head_learning_rate`"
    )


class RegularizerSection(Section):
    """FLOPS, added to the loss: the sum over the vocabulary of the squared mean weight of a word in
    the batch (Paria et al. 2020). The larger its weights, the fewer active terms per text.
    """

    query_weight: NonNegativeFloat | None = Field(
        None,
        description=(
            "weight of the FLOPS of queries; null: 0.003, or 0 if a table encodes queries, whose"
            " terms are their words"
        ),
    )
    document_weight: NonNegativeFloat = Field(0.003, description="weight of the FLOPS of documents")
    warmup_ratio: Ratio = Field(
        0.33,
        description="share of the steps in which the weights grow, with the square of the step",
    )
    free_terms: PositiveInt | None = Field(
        None,
        description=(
            "texts with at most this many active terms are not regularised (Shen et al. 2025);"
            " null: all are"
        ),
    )
