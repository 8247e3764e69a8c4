"""The contract of a model with one sparse vector per text."""

from typing import Literal

from pydantic import Field

from trainer.models.contracts.text import TextContract


class SparseContract(TextContract):
    """How a text becomes one weight per word of the vocabulary, compared by the dot product."""

    KIND = "sparse"

    kind: Literal["sparse"] = Field("sparse", description="the family of the model")
    has_query_table: bool = Field(
        False, description="queries are encoded by a table with one weight per word"
    )
