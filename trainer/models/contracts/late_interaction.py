"""The contract of a model with one vector per token."""

from typing import Literal

from pydantic import Field

from trainer.models.contracts.text import Role, TextContract


class LateInteractionContract(TextContract):
    """How texts become one vector per token, of length 1, compared by MaxSim."""

    KIND = "late_interaction"

    kind: Literal["late_interaction"] = Field(
        "late_interaction", description="the family of the model"
    )
    query_marker: str = Field(
        description="token put before every query, behind the first special one; empty: none"
    )
    document_marker: str = Field(
        description="token put before every document, behind the first special one; empty: none"
    )
    query_expansion: bool = Field(
        description=(
            "queries are filled up with mask tokens to their maximum length, and those are"
            " scored too"
        )
    )
    attend_to_expansion: bool = Field(
        description="whether other tokens attend to these mask tokens"
    )
    skipped_tokens: tuple[str, ...] = Field(
        strict=False, description="tokens of documents that are not scored"
    )

    def marker(self, role: Role) -> str:
        """Returns the token that is put before every text of `role`."""
        return self.query_marker if role == "query" else self.document_marker
