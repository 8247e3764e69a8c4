"""The contract: everything that must be equal in training and in use, in one versioned file."""

from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from trainer.errors import BadModel
from trainer.models.files.vetting import read_json
from trainer.storage.atomic import write_text

FILE = "nearfar.json"

Role = Literal["query", "document"]
ContractKind = TypeVar("ContractKind", bound="TextContract")


class TextContract(BaseModel):
    """The contract of all families: prompts, lengths, tokenizer and dimensions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    KIND: ClassVar[str | None] = None
    ADAPTER_HAS_HEAD: ClassVar[bool] = False
    """True when the folder of a LoRA adapter also holds modules that are fully trained."""

    version: Literal[1] = Field(1, description="of this file's form")
    backbone: str = Field(description="what the training started from, as a name")
    layers: tuple[int, ...] | None = Field(
        None,
        strict=False,
        description="of that backbone's layers, numbered from 0, those that were kept; null: all",
    )
    query_prompt: str = Field("", description="text put before every query")
    document_prompt: str = Field("", description="text put before every document")
    query_max_length_tokens: PositiveInt = Field(
        description="longer queries are cut, special tokens counted"
    )
    document_max_length_tokens: PositiveInt = Field(
        description="longer documents are cut, special tokens counted"
    )
    dimensions: PositiveInt = Field(description="width of a vector")
    tokenizer_fingerprint: str = Field(
        description="of the vocabulary and of how probe texts are cut"
    )

    def prompt(self, role: Role) -> str:
        """Returns the text that is put before every text of `role`."""
        return self.query_prompt if role == "query" else self.document_prompt

    def max_length_tokens(self, role: Role) -> int:
        """Returns the maximum length of texts of `role`, including special tokens."""
        return self.query_max_length_tokens if role == "query" else self.document_max_length_tokens

    def write(self, folder: Path) -> None:
        """Writes `nearfar.json` into `folder`."""
        write_text(folder / FILE, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def describes(cls, folder: Path) -> bool:
        """Returns true when `folder` has a contract of this kind. Raises BadModel for bad JSON."""
        return (folder / FILE).is_file() and read_json(folder, FILE).get("kind") == cls.KIND

    @classmethod
    def read(cls: type[ContractKind], folder: Path) -> ContractKind | None:
        """Reads the contract of `folder`, or returns None if there is none.

        Raises BadModel when it is invalid, of another version or of another kind of model.
        """
        if not (folder / FILE).is_file():
            return None
        content = read_json(folder, FILE)
        if content.get("kind") != cls.KIND:
            kind, expected_kind = content.get("kind") or "dense", cls.KIND or "dense"
            raise BadModel(
                f"{folder} holds a model of kind {str(kind)[:40]}, but one of kind {expected_kind}"
                " is needed; give one of that kind, or its backbone"
            )
        if content.get("version") != 1:
            raise BadModel(
                f"{folder / FILE} has version {content.get('version')!r}, but this nearfar reads"
                " version 1; use the nearfar that wrote it, or a newer one"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise BadModel(
                f"{folder / FILE}: `{place}`: {first['msg']}; the file was changed or was not"
                " written by nearfar: copy the model again"
            ) from error
