"""The contract of a model with one vector per text."""

from typing import Literal

from pydantic import Field

from trainer.models.contracts.text import TextContract

PoolingKind = Literal["mean", "cls", "last_token", "weighted_mean"]


class DenseContract(TextContract):
    """How texts become one vector each. Every field changes the vectors."""

    pooling: PoolingKind = Field(description="token vectors to one vector")
    include_prompt: bool = Field(
        True, description="whether the prompt's tokens take part in pooling"
    )
    normalize: bool = Field(description="every vector is scaled to length 1")
    similarity: Literal["cosine", "dot"] = Field(
        description="how vectors are compared; of normalised vectors both are the same"
    )
