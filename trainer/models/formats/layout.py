"""What the files of a model folder say, whatever the family of the model."""

from dataclasses import dataclass
from pathlib import Path

from trainer.models.contracts.text import TextContract


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """Where the backbone is, and how texts are prepared; None where the folder says nothing."""

    backbone: Path
    lower_case: bool = False
    query_prompt: str | None = None
    document_prompt: str | None = None
    query_max_length_tokens: int | None = None
    document_max_length_tokens: int | None = None
    contract: TextContract | None = None


TEXT_FIELDS = {
    "query_prompt",
    "document_prompt",
    "query_max_length_tokens",
    "document_max_length_tokens",
}
"""The fields that a contract and a layout share in every family."""
