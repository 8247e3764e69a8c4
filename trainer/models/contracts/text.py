"""The contract: everything that must be the same in training and in use, in one versioned file."""

from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from trainer.errors import BadModel
from trainer.models.files.vetting import read_json

FILE = "nearfar.json"

Role = Literal["query", "document"]
ContractKind = TypeVar("ContractKind", bound="TextContract")


class TextContract(BaseModel):
    """What models of every family fix: prompts, lengths, the tokenizer, the width of a vector."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    KIND: ClassVar[str | None] = None
    ADAPTER_HAS_HEAD: ClassVar[bool] = False
    """Whether modules that are trained whole lie beside a LoRA adapter."""

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
        """What is put before every text of `role`."""
        return self.query_prompt if role == "query" else self.document_prompt

    def max_length_tokens(self, role: Role) -> int:
        """Longer texts of `role` are cut to so many tokens, special tokens counted."""
        return self.query_max_length_tokens if role == "query" else self.document_max_length_tokens

    def write(self, folder: Path) -> None:
        """Writes `nearfar.json` into `folder`."""
        (folder / FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def describes(cls, folder: Path) -> bool:
        """Whether `folder` has a contract of this kind. Raises BadModel for a file that is no
        JSON.
        """
        return (folder / FILE).is_file() and read_json(folder, FILE).get("kind") == cls.KIND

    @classmethod
    def read(cls: type[ContractKind], folder: Path) -> ContractKind | None:
        """The contract of `folder`, None where there is none; BadModel when it is of another
        version or not one.
        """
        if not (folder / FILE).is_file():
            return None
        content = read_json(folder, FILE)
        if content.get("kind") != cls.KIND:
            found, wanted = content.get("kind") or "dense", cls.KIND or "dense"
            raise BadModel(
                f"{folder} holds a model of kind {str(found)[:40]}, where one of kind {wanted} is"
                " asked for; give one of that kind, or its backbone"
            )
        if content.get("version") != 1:
            raise BadModel(
                f"{folder / FILE} is of version {content.get('version')!r} and this nearfar reads"
                " version 1; use the nearfar that wrote it, or a newer one"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise BadModel(
                f"{folder / FILE}: `{place}`: {first['msg']}; the file was changed by hand or is"
                " not ours"
            ) from error
