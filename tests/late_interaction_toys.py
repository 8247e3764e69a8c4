"""Tiny late-interaction models, the texts on which they are compared, and a model's own vectors
without the rows of zeros.
"""

import json
import string
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import (
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from torch import Tensor, nn
from torch.nn import functional
from toy_models import SENTENCES, word_piece_model
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from trainer.batch import Texts
from trainer.models.contracts.text import Role
from trainer.models.dense import DenseEncoder, read_encoder
from trainer.models.encoder import VectorEncoder
from trainer.models.late_interaction import (
    LateInteractionEncoder,
    LateInteractionSettings,
    build_late_interaction_encoder,
)
from trainer.scores import maxsim
from trainer.vectors.tokens import TokenVectors

TEXTS = (
    *SENTENCES,
    "",
    "?!",
    "a",
    "Delete a disk. " * 30,
    "(list) every-virtual_machine: #1, \\ [unknown] 日本語 🎉",
)
"""Among them an empty text, punctuation, a text longer than the limits, and unknown characters."""
QUERY_LENGTH, DOCUMENT_LENGTH = 20, 40
Vectors = list[np.ndarray]
"""One array (token, dimension) per text, without tokens that are not scored."""


def make_marked_bert(folder: Path) -> None:
    """Writes a tiny BERT whose vocabulary has unused tokens and all punctuation."""
    special = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(word_piece_model(special, [*string.punctuation, "delete"]))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 4), ("[SEP]", 5)]
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, model_input_names=inputs, **names
    )
    assert all(
        tokenizer.convert_tokens_to_ids(sign) != tokenizer.unk_token_id
        for sign in string.punctuation
    )
    torch.manual_seed(17)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=66,
        initializer_range=0.3,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_stanford_metadata(folder: Path, **change: object) -> None:
    """Writes Stanford's artifact.metadata with changes, without the keys of training and index."""
    settings = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_token": "[Q]",
        "doc_token": "[D]",
        "dim": 16,
        "query_maxlen": QUERY_LENGTH,
        "doc_maxlen": DOCUMENT_LENGTH,
        "mask_punctuation": True,
        "attend_to_mask_tokens": False,
        "interaction": "colbert",
        "similarity": "cosine",
        "model_name": "bert-base-uncased",
    }
    (folder / "artifact.metadata").write_text(json.dumps(settings | change))


def new_encoder(backbone: Path | str, **settings: Any) -> LateInteractionEncoder:
    """A new encoder over `backbone`, with 16 dimensions, short texts and these settings."""
    return build_late_interaction_encoder(
        LateInteractionSettings(
            backbone=str(backbone),
            **{
                "projection_dimensions": 16,
                "query_max_length_tokens": QUERY_LENGTH,
                "document_max_length_tokens": DOCUMENT_LENGTH,
                **settings,
            },
        )
    )


@torch.no_grad()
def scored_vectors(encoder: LateInteractionEncoder, texts: Sequence[str], role: Role) -> Vectors:
    """The vectors of the texts, which are the same for a single text and in a batch."""
    encoder.eval()
    batch = encoder(encoder.tokenize(texts, role))
    for text, vectors in zip(texts, batch, strict=True):
        single_vectors = encoder(encoder.tokenize([text], role))[0]
        torch.testing.assert_close(
            vectors[: len(single_vectors)], single_vectors, atol=1e-5, rtol=0
        )
    return [vectors[vectors.any(-1)].numpy() for vectors in batch]


@torch.no_grad()
def maxsim_scores(
    encoder: LateInteractionEncoder, queries: Sequence[str], documents: Sequence[str]
) -> np.ndarray:
    """The MaxSim of every query with every document."""
    encoder.eval()
    return maxsim(
        encoder(encoder.tokenize(queries, "query")),
        encoder(encoder.tokenize(documents, "document")),
    ).numpy()


def assert_same_vectors(vectors: Vectors, references: Vectors) -> None:
    """The same tokens have vectors, which are equal to 1e-5."""
    assert [len(text) for text in vectors] == [len(text) for text in references]
    for text, reference in zip(vectors, references, strict=True):
        assert np.abs(text - reference).max(initial=0.0) < 1e-5


def train_one_step(encoder: LateInteractionEncoder) -> LateInteractionEncoder:
    """Trains one step, which changes every trained weight; returns the encoder."""
    optimizer = torch.optim.AdamW(
        [parameter for parameter in encoder.parameters() if parameter.requires_grad], lr=0.02
    )
    encoder(encoder.tokenize(SENTENCES, "document"))[..., :5].sum().backward()
    optimizer.step()
    return encoder


class ToyLateInteraction(VectorEncoder):
    """The interface of the real encoders over a toy BERT: its hidden states are projected and
    scaled to length 1. Special tokens, padding, full stops and exclamation marks get zero rows.
    """

    vectors = TokenVectors
    is_padded = True

    def __init__(self, dense: DenseEncoder, dimensions: int = 16) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(dimensions)
        self.dense = dense
        self.projection = nn.Linear(32, dimensions, bias=False)
        self.contract = SimpleNamespace(
            dimensions=dimensions, query_max_length_tokens=32, document_max_length_tokens=64
        )
        self.tokenizer = dense.tokenizer
        skipped_ids = [
            *dense.tokenizer.all_special_ids,
            *dense.tokenizer.convert_tokens_to_ids([".", "!"]),
        ]
        self.register_buffer("skipped_ids", torch.tensor(skipped_ids))

    @property
    def dimensions(self) -> int:
        return self.contract.dimensions

    @property
    def device(self) -> torch.device:
        return self.projection.weight.device

    def tokenize(self, texts: Sequence[str], role: str) -> Texts:
        return self.dense.tokenize(texts, role)

    def vectors_per_text(self, role: str, mean_tokens: float) -> float:
        return mean_tokens

    def write_pipeline(self, folder: Path) -> None:
        raise NotImplementedError

    def forward(self, texts: Texts) -> Float[Tensor, "text length dimension"]:
        ids, mask = (tensor.to(self.device) for tensor in texts.pad())
        states = self.dense.backbone(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        vectors = functional.normalize(self.projection(states).float(), dim=-1)
        return vectors * (mask & ~torch.isin(ids, self.skipped_ids))[..., None]


def toy_late_interaction(folder: str, dimensions: int = 16) -> ToyLateInteraction:
    """The encoder over the toy BERT in `folder`."""
    return ToyLateInteraction(read_encoder(folder), dimensions).eval()
