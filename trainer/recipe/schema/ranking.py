"""The objectives of a cross-encoder, which compare a query's own candidates."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.recipe.schema.objective import (
    DistillationObjective,
    MarginMseObjective,
    ObjectiveSection,
)
from trainer.recipe.schema.section import NonNegativeInt


class RankingObjective(ObjectiveSection):
    """The common keys of the ranking objectives of a cross-encoder. They compare a query's own
    candidates, of which the first is the positive.
    """

    kind: str
    random_negatives: NonNegativeInt = Field(
        0,
        description=(
            "negatives per row if the data have none: positives of other rows of the batch,"
            " drawn again in each epoch"
        ),
    )
    graded: bool = Field(
        False,
        description=(
            "true: the scores in the data are the relevance of each candidate; false: the positive"
            " is relevant and the others are not"
        ),
    )

    @property
    def reads_scores(self) -> bool:
        """As relevance, where it is graded."""
        return self.graded

    @model_validator(mode="after")
    def _drawn_negatives_have_no_grade(self) -> Self:
        if self.random_negatives and self.graded:
            raise ValueError(
                "objective.graded uses scores in the data, but random negatives have none; set"
                " objective.random_negatives to 0"
            )
        return self


class PointwiseObjective(RankingObjective):
    """Binary cross-entropy of each candidate (Nogueira & Cho 2019). Graded: scores from 0 to 1,
    also of scored pairs.
    """

    kind: Literal["pointwise"] = "pointwise"


class PairwiseObjective(RankingObjective):
    """RankNet: the better of two candidates must score higher (Burges et al. 2005). Graded: only
    the order of the scores counts.
    """

    kind: Literal["pairwise"] = "pairwise"


class ListwiseObjective(RankingObjective):
    """Cross-entropy of the softmax over a query's candidates (Cao et al. 2007). Graded: scores of 0
    or more, each divided by their sum.
    """

    kind: Literal["listwise"] = "listwise"


class LambdaLossObjective(RankingObjective):
    """RankNet's loss with pairs weighted by their effect on nDCG (NDCG-Loss2++, Wang et al. 2018).
    Graded: grades from 0 to 30.
    """

    kind: Literal["lambda_loss"] = "lambda_loss"


CrossEncoderObjective = Annotated[
    PointwiseObjective
    | PairwiseObjective
    | ListwiseObjective
    | LambdaLossObjective
    | DistillationObjective
    | MarginMseObjective,
    Field(discriminator="kind"),
]
