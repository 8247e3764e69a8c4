"""The contract of a model with one score per pair."""

from typing import Literal

from pydantic import Field

from trainer.models.contracts.text import TextContract


class CrossEncoderContract(TextContract):
    """How a (query, document) pair becomes one score.

    The query is cut first; `document_max_length_tokens` is the length of the whole pair.
    """

    KIND = "cross_encoder"
    ADAPTER_HAS_HEAD = True

    kind: Literal["cross_encoder"] = Field("cross_encoder", description="the family of the model")
