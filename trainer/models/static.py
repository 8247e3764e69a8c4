"""Static models: a table of token vectors in place of a transformer, which is very fast on a CPU.

The layout is that of StaticEmbedding in sentence-transformers. The vector of a text is the mean of
its token vectors (pooling `mean`); special tokens do not count.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trainer.errors import BadModel
from trainer.models.files.vetting import check_links, inside, read_json, read_tensors
from trainer.models.parts.loaded_backbone import LoadedBackbone
from trainer.models.parts.principal import principal_directions
from trainer.models.tokenizers import texts as tokenization
from trainer.storage.atomic import write_text

LONGEST_TOKENS = 2**20
"""The maximum length if the tokenizer's file has none: no text is cut."""


class TokenTable(nn.Module):
    """A table with one vector per token, in the place of a backbone."""

    def __init__(self, weight: Float[Tensor, "token dimension"]) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag.from_pretrained(
            weight.contiguous(), freeze=False, mode="mean", include_last_offset=True
        )
        self.config = SimpleNamespace(
            hidden_size=weight.shape[1], max_position_embeddings=LONGEST_TOKENS
        )

    def forward(
        self, tokens: Int[Tensor, " token"], offsets: Int[Tensor, " text_plus_one"]
    ) -> Float[Tensor, "text dimension"]:
        """Returns the mean vector of the tokens of each text."""
        means: Tensor = self.embedding(tokens, offsets)
        return means


class StaticBackbone(LoadedBackbone):
    """A table with its tokenizer, ready for an encoder like any backbone."""

    def __init__(self, table: TokenTable, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model: Any = table
        self.tokenizer = tokenizer
        self.pristine_config = PretrainedConfig()  # of no architecture: none is saved
        self.decoder = False
        self.layers = None
        self.width = table.embedding.embedding_dim

    @property
    def longest(self) -> int:
        """The number of tokens at which the tokenizer cuts a text, also in other libraries."""
        longest: int = self.tokenizer.model_max_length
        return longest

    def length(
        self, setting: int | None, folder_value: int | None, default: int | None = None
    ) -> int:
        """Returns the maximum length of the tokenizer's file.

        Raises BadModel for another length: sentence-transformers reads no other, so it would give
        other vectors.
        """
        if setting is not None and setting != self.longest:
            raise BadModel(
                f"a maximum length of {setting} tokens was requested, but a static model cuts texts"
                f" at the {self.longest} tokens that its tokenizer.json says; leave it out"
                if self.longest < LONGEST_TOKENS
                else f"a maximum length of {setting} tokens was requested, but a static model does"
                " not cut texts; leave it out"
            )
        return self.longest

    @classmethod
    def read(cls, folder: Path) -> "StaticBackbone":
        """Reads the table in `folder`. Raises BadModel when it or its tokenizer is invalid."""
        check_links(folder)
        weights = inside(folder, "model.safetensors")
        if not weights.is_file():
            raise BadModel(
                f"{folder} holds no model.safetensors; weights in any other format are not opened"
            )
        tensors = read_tensors(weights)
        if set(tensors) != {"embedding.weight"} or tensors["embedding.weight"].ndim != 2:
            raise BadModel(
                f"{weights}: one matrix named embedding.weight is read, and it holds"
                f" {', '.join(sorted(tensors))[:80]}"
            )
        table, tokenizer = TokenTable(tensors["embedding.weight"].float()), _read_tokenizer(folder)
        tokenization.check_matches(tokenizer, table.embedding.num_embeddings, folder)
        return cls(table, tokenizer)


def without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Returns the tokenizer without special tokens, which a mean would count."""
    backend: Any = tokenizer.backend_tokenizer
    return _plain(json.loads(backend.to_str()) | {"truncation": None}, tokenizer.pad_token)


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes `tokenizer.json`, which sentence-transformers reads, and the name of the pad token."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if tokenizer.model_max_length < LONGEST_TOKENS:
        backend.enable_truncation(tokenizer.model_max_length)
    write_text(folder / "tokenizer.json", backend.to_str())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": tokenizer.pad_token}
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    path = inside(folder, "tokenizer.json")
    settings = (
        read_json(folder, "tokenizer_config.json")
        if (folder / "tokenizer_config.json").is_file()
        else {}
    )
    pad = settings.get("pad_token")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _plain(content, pad if isinstance(pad, str) else None)
    except Exception as error:
        raise BadModel(f"{path} cannot be read as a tokenizer: {str(error)[:200]}") from error


def _plain(content: dict[str, Any], pad: str | None) -> PreTrainedTokenizerBase:
    """Returns a tokenizer without special tokens and padding; a truncation is its maximum length.

    Padding is masked, so any token can be the pad token: the first one is the default.
    """
    truncation = content.get("truncation") or {"max_length": LONGEST_TOKENS}
    if truncation.get("direction", "Right") != "Right":
        raise BadModel("it cuts the beginning of a text; only the end can be cut")
    backend = Tokenizer.from_str(
        json.dumps(content | {"post_processor": None, "truncation": None, "padding": None})
    )
    pad_token = (
        pad if pad is not None and backend.token_to_id(pad) is not None else backend.id_to_token(0)
    )
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad_token,
        clean_up_tokenization_spaces=False,
        model_max_length=truncation["max_length"],
    )
    return tokenizer


def table_of(
    vectors: Float[Tensor, "token width"], dimensions: int, pad_token_id: int
) -> TokenTable:
    """Returns a table with `vectors` reduced to `dimensions` principal components.

    Frequent tokens weigh less. The weight of a token is a / (a + p), a = 1e-4 (SIF, Arora et al.
    2017, equation 2). p follows Zipf's law for the place in the vocabulary, which lists frequent
    tokens first (as in Model2Vec, Tulkens & van Dongen 2024). The pad token has a row of zeros, so
    the vector of a text without tokens is zero.
    """
    if dimensions > vectors.shape[1]:
        raise BadModel(
            f"model.static.dimensions={dimensions}: the backbone's vectors have only"
            f" {vectors.shape[1]} dimensions; give at most {vectors.shape[1]}"
        )
    centred_vectors = vectors.float() - vectors.float().mean(0)
    table = centred_vectors @ principal_directions(centred_vectors, dimensions).T
    share = 1 / torch.arange(2, len(vectors) + 2, dtype=torch.float64)
    weights = 1e-4 / (1e-4 + share / share.sum())
    table = table * weights[:, None].float()
    table[pad_token_id] = 0.0
    return TokenTable(table)
