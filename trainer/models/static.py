"""A table of token vectors in a transformer's place: the fastest model there is on a CPU, in the
layout of sentence-transformers' StaticEmbedding.

A text's vector is the mean of its tokens' (pooling `mean`), no token sees another, and special
tokens do not count.
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

LONGEST_TOKENS = 2**20
"""No text is cut: sentence-transformers cuts none here either."""


class TokenTable(nn.Module):
    """One vector a token, whatever stands around it; called as a backbone is."""

    def __init__(self, weight: Float[Tensor, "token dimension"]) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(weight.contiguous(), freeze=False)
        self.config = SimpleNamespace(
            hidden_size=weight.shape[1], max_position_embeddings=LONGEST_TOKENS
        )

    def forward(
        self,
        input_ids: Int[Tensor, "text length"],
        attention_mask: Int[Tensor, "text length"] | None = None,
    ) -> Any:
        """The rows of the table as `last_hidden_state`; pooling leaves padding out."""
        return SimpleNamespace(last_hidden_state=self.embedding(input_ids))


class StaticBackbone(LoadedBackbone):
    """A table and its tokenizer, ready for an encoder as a backbone is."""

    def __init__(self, table: TokenTable, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model: Any = table
        self.tokenizer = tokenizer
        self.pristine_config = PretrainedConfig()  # of no architecture: none is saved
        self.decoder = False
        self.layers = None
        self.width = table.embedding.embedding_dim

    @property
    def longest(self) -> int:
        """More than any text has."""
        return LONGEST_TOKENS

    def length(self, wanted: int | None, stored: int | None, default: int | None = None) -> int:
        """All of a text. Raises BadModel for another length: sentence-transformers cuts no text of
        a static model, and would give other vectors.
        """
        if wanted is not None and wanted != LONGEST_TOKENS:
            raise BadModel(
                f"a maximum length of {wanted} tokens was asked for; a static model takes texts"
                " whole: leave it out"
            )
        return LONGEST_TOKENS

    @classmethod
    def read(cls, folder: Path) -> "StaticBackbone":
        """The table in `folder`. Raises BadModel where it is not one, or does not fit its
        tokenizer.
        """
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
    """The tokenizer without what it puts around a text: a mean would count it."""
    backend: Any = tokenizer.backend_tokenizer
    return _plain(backend.to_str(), tokenizer.pad_token)


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes `tokenizer.json`, which sentence-transformers reads, and which token pads."""
    backend: Any = tokenizer.backend_tokenizer
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": tokenizer.pad_token}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8"
    )


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    path = inside(folder, "tokenizer.json")
    settings = (
        read_json(folder, "tokenizer_config.json")
        if (folder / "tokenizer_config.json").is_file()
        else {}
    )
    pad = settings.get("pad_token")
    try:
        return _plain(path.read_text(encoding="utf-8"), pad if isinstance(pad, str) else None)
    except Exception as error:
        raise BadModel(f"{path} cannot be read as a tokenizer: {str(error)[:200]}") from error


def _plain(content: str, pad: str | None) -> PreTrainedTokenizerBase:
    """Without special tokens, truncation and padding. Padding is masked, so where no token is named
    for it the first will do.
    """
    backend = Tokenizer.from_str(
        json.dumps(
            json.loads(content) | {"post_processor": None, "truncation": None, "padding": None}
        )
    )
    known = (
        pad if pad is not None and backend.token_to_id(pad) is not None else backend.id_to_token(0)
    )
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=known, clean_up_tokenization_spaces=False
    )
    return tokenizer


def table_of(
    vectors: Float[Tensor, "token width"], dimensions: int, pad_token_id: int
) -> TokenTable:
    """The table that starts as `vectors`, brought to `dimensions` by principal components, frequent
    tokens weighing less.

    A token's weight is a / (a + p), a = 1e-4 (SIF, Arora et al. 2017, equation 2), with p by Zipf's
    law from its place in the vocabulary, which lists frequent tokens first (as Model2Vec does,
    Tulkens & van Dongen 2024). The row of the pad token is zero: so is the vector of a text without
    tokens.
    """
    if dimensions > vectors.shape[1]:
        raise BadModel(
            f"model.static.dimensions={dimensions}: the backbone's vectors have {vectors.shape[1]}"
            " numbers; ask for at most so many"
        )
    centred = vectors.float() - vectors.float().mean(0)
    reduced = centred @ principal_directions(centred, dimensions).T
    share = 1 / torch.arange(2, len(vectors) + 2, dtype=torch.float64)
    weights = 1e-4 / (1e-4 + share / share.sum())
    reduced = reduced * weights[:, None].float()
    reduced[pad_token_id] = 0.0
    return TokenTable(reduced)
