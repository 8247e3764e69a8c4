"""The section `refresh`: hard negatives mined during training."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from trainer.recipe.schema.section import NonNegativeInt, Ratio, Section


class RefreshSection(Section):
    """Hard negatives mined repeatedly during training, by the current model, for the queries of the
    next steps (ANCE, Xiong et al. 2021).
    """

    every_steps: PositiveInt = Field(200, description="steps from one mining to the next")
    first_step: NonNegativeInt = Field(
        0,
        description=(
            "the first mining comes before this step, counted from 0; earlier steps have no mined"
            " negatives"
        ),
    )
    negatives: PositiveInt = Field(
        4,
        description=(
            "mined negatives per query, added to `data.negatives_per_query`; fewer if too few"
            " documents pass the limits"
        ),
    )
    depth: PositiveInt = Field(
        100, description="ranks that are searched for negatives; known positives do not count"
    )
    skip_top: NonNegativeInt = Field(0, description="first ranks that are skipped")
    pick: Literal["top", "random"] = Field(
        "top", description="use the best documents that pass the limits, or random ones"
    )
    percent_of_positive: Annotated[float, Field(ge=0.0, le=100.0)] = Field(
        95.0,
        description="highest score of a negative, in percent of the positive's; 0: no limit",
    )
    margin: float | None = Field(
        None,
        description="least difference between the positive's score and a negative's; null: none",
    )
    relative_margin: Ratio | None = Field(
        None, description="like `margin`, as a share of the positive's score; null: none"
    )
    min_score: float | None = Field(None, description="lowest score of a negative; null: no limit")
    max_score: float | None = Field(None, description="highest score of a negative; null: no limit")
    corpus: str | None = Field(
        None,
        description=(
            "more documents to search: JSON Lines, a .txt file, or a BEIR folder; null: only those"
            " of `data.train`"
        ),
    )
    max_documents: PositiveInt | None = Field(
        None,
        description=(
            "nothing is mined where more documents would be searched, as each mining encodes them"
            " all; null: no limit"
        ),
    )
