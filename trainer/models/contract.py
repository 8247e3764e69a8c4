"""The contract: everything that must be the same in training and in use, in one versioned file."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from trainer.errors import BadModel
from trainer.models.vetting import read_json

FILE = "nearfar.json"

PoolingKind = Literal["mean", "cls", "last_token", "weighted_mean"]
Role = Literal["query", "document"]


class Contract(BaseModel):
    """How texts become vectors. Changing a field changes every vector, so a folder carries it beside the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = Field(1, description="of this file's form")
    backbone: str = Field(description="what the training started from, as a name")
    pooling: PoolingKind = Field(description="token vectors to one vector")
    include_prompt: bool = Field(True, description="whether the prompt's tokens take part in pooling")
    normalize: bool = Field(description="every vector is scaled to length 1")
    query_prompt: str = Field("", description="text put before every query")
    document_prompt: str = Field("", description="text put before every document")
    query_max_length_tokens: PositiveInt = Field(description="longer queries are cut, special tokens counted")
    document_max_length_tokens: PositiveInt = Field(description="longer documents are cut, special tokens counted")
    similarity: Literal["cosine", "dot"] = Field(description="how vectors are compared; of normalised vectors both are the same")
    dimensions: PositiveInt = Field(description="width of a vector")
    tokenizer_fingerprint: str = Field(description="of the vocabulary and of how probe texts are cut")

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
    def read(cls, folder: Path) -> "Contract | None":
        """The contract of `folder`, None where there is none; BadModel when it is of another version or not one."""
        if not (folder / FILE).is_file():
            return None
        content = read_json(folder, FILE)
        if content.get("version") != 1:
            raise BadModel(
                f"{folder / FILE} is of version {content.get('version')!r} and this nearfar reads version 1; "
                "use the nearfar that wrote it, or a newer one"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise BadModel(f"{folder / FILE}: `{place}`: {first['msg']}; the file was changed by hand or is not ours") from error
