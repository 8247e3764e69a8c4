"""The section `regularizer` of a sparse model: how few words of the vocabulary stay active."""

from pydantic import Field, PositiveInt

from trainer.recipe.schema.section import NonNegativeFloat, Ratio, Section


class RegularizerSection(Section):
    """FLOPS, added to the loss: the sum over the vocabulary of the squared mean weight of a word in
    the batch (Paria et al. 2020). The larger its weights, the fewer active terms per text.
    """

    query_weight: NonNegativeFloat = Field(0.003, description="weight of the FLOPS of queries")
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
