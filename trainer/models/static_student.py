"""Builds a static student from a transformer, whose vectors of single tokens start the table."""

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.collectives import rank
from trainer.errors import BadModel
from trainer.microbatches import micro_batches
from trainer.models.contracts.dense import DenseContract
from trainer.models.dense import DenseEncoder, DenseSettings, around, read_encoder
from trainer.models.formats.sentence_transformers import DenseLayout
from trainer.models.loading import public_name
from trainer.models.static import StaticBackbone, table_of, without_special_tokens
from trainer.models.tokenizers import texts as tokenization

Start = Literal["vocabulary", "token_embeddings"]
_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class StaticSettings:
    """The settings of a static model. None means the value of the backbone."""

    backbone: str
    dimensions: int = 256
    """The number of dimensions of a vector."""
    start: Start = "vocabulary"
    """The table starts as the backbone's vectors of single tokens, or as its input embeddings."""
    normalize: bool | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None


def build_static_encoder(settings: StaticSettings) -> DenseEncoder:
    """Builds the encoder that the settings describe, in training mode.

    Raises BadModel when the backbone is static itself, or has fewer dimensions.
    """
    source = _start(settings.backbone, settings.start)
    tokenizer = without_special_tokens(source.tokenizer)
    table = table_of(source.vectors, settings.dimensions, tokenizer.pad_token_id)
    layout = DenseLayout(
        Path(),
        query_prompt=source.contract.query_prompt,
        document_prompt=source.contract.document_prompt,
    )
    dense_settings = DenseSettings(
        backbone=settings.backbone,
        normalize=settings.normalize,
        query_prompt=settings.query_prompt,
        document_prompt=settings.document_prompt,
    )
    backbone = StaticBackbone(table, tokenizer)
    return around(backbone, layout, dense_settings, public_name(settings.backbone)).train()


class _Start(NamedTuple):
    """The parts from which a table is made."""

    vectors: Float[Tensor, "token width"]
    tokenizer: PreTrainedTokenizerBase
    contract: DenseContract


@lru_cache(
    maxsize=1
)  # a run makes its student twice: to train it, and to put the best weights into
def _start(backbone: str, start: Start) -> _Start:
    source = read_encoder(backbone)
    if not source.has_layers:
        raise BadModel(f"{backbone} is a static model already; train it on with model.static: null")
    match start:
        case "vocabulary":
            if rank() == 0:
                print(
                    f"{backbone} encodes the {len(source.tokenizer):,} tokens of its vocabulary",
                    file=sys.stderr,
                    flush=True,
                )
            vectors = vocabulary_vectors(source)
        case "token_embeddings":
            vectors = source.backbone.get_input_embeddings().weight.detach()[  # type: ignore[operator]
                : len(source.tokenizer)
            ]
        case _:
            assert_never(start)
    return _Start(vectors, source.tokenizer, source.contract)


@torch.inference_mode()
def vocabulary_vectors(source: DenseEncoder) -> Float[Tensor, "token width"]:
    """Returns the encoder's vector of each token of its vocabulary, as a text of its own."""
    leading_ids, trailing_ids = tokenization.special_tokens(source.tokenizer)
    texts = Texts.of(
        [[*leading_ids, token, *trailing_ids] for token in range(len(source.tokenizer))],
        range(len(source.tokenizer)),
        source.tokenizer.pad_token_id,
    )
    vectors = torch.cat(
        [
            source(texts.select(rows))
            for rows in micro_batches(texts.lengths, _TOKENS_AT_ONCE, source.is_padded)
        ]
    )
    return vectors.clone()
