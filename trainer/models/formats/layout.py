"""The settings in a model folder, for all families."""

from dataclasses import dataclass
from pathlib import Path

from trainer.models.contracts.text import TextContract


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """The folder of the backbone, and how texts are prepared; None for missing settings."""

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
