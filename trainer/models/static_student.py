"""A static student made from a transformer: its table starts as what the transformer makes of every
single token.
"""

import sys
from functools import lru_cache
from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.collectives import rank
from trainer.errors import BadModel
from trainer.microbatches import micro_batches
from trainer.models.contract import Contract
from trainer.models.dense import DenseEncoder, assemble_static, read_encoder
from trainer.models.encoder import public_name
from trainer.models.static import StaticBase, table_of, without_special_tokens
from trainer.models.tokenizers import texts as tokenization
from trainer.recipe import schema as recipe

_TOKENS_AT_ONCE = 4096


def static_student(model: recipe.Model) -> DenseEncoder:
    """The table a recipe describes, in training mode. Raises BadModel where the backbone is a table
    itself or narrower than what is asked for.
    """
    assert model.static is not None
    source = _start(model.backbone, model.static.start)
    tokenizer = without_special_tokens(source.tokenizer)
    base = StaticBase(
        table_of(source.vectors, model.static.dimensions, tokenizer.pad_token_id), tokenizer
    )
    prompts = {
        "query_prompt": source.contract.query_prompt,
        "document_prompt": source.contract.document_prompt,
    }
    asked = model.model_dump(
        include={"normalize", "query_prompt", "document_prompt"}, exclude_none=True
    )
    return assemble_static(base, public_name(model.backbone), prompts | asked).train()


class _Start(NamedTuple):
    """What a table is made of."""

    vectors: Float[Tensor, "token width"]
    tokenizer: PreTrainedTokenizerBase
    contract: Contract


@lru_cache(
    maxsize=1
)  # a run makes its student twice: to train it, and to put the best weights into
def _start(backbone: str, start: Literal["vocabulary", "token_embeddings"]) -> _Start:
    source = read_encoder(backbone)
    if source.is_static:
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
    """The encoder's vector of each token of its vocabulary, a text of its own between the special
    tokens.
    """
    before, after = tokenization.special_tokens(source.tokenizer)
    texts = Texts.of(
        [[*before, token, *after] for token in range(len(source.tokenizer))],
        range(len(source.tokenizer)),
        source.tokenizer.pad_token_id,
    )
    found = torch.cat(
        [source(texts.select(rows)) for rows in micro_batches(texts.lengths, _TOKENS_AT_ONCE)]
    )
    return found.clone()
