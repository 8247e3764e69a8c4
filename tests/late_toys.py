"""A tiny encoder of one vector a token, through the interface of the real ones: a BERT with random
weights, punctuation not scored.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer.batch import Texts
from trainer.models.dense import DenseEncoder, read_encoder


class ToyLate(nn.Module):
    """The hidden states of a toy BERT, projected and of length 1; special tokens, padding and full
    stops give rows of zeros.
    """

    def __init__(self, dense: DenseEncoder, dimensions: int = 16) -> None:
        super().__init__()
        torch.manual_seed(dimensions)
        self.dense = dense
        self.projection = nn.Linear(32, dimensions, bias=False)
        self.contract = SimpleNamespace(
            dimensions=dimensions, query_max_length_tokens=32, document_max_length_tokens=64
        )
        self.tokenizer = dense.tokenizer
        skipped = [
            *dense.tokenizer.all_special_ids,
            *dense.tokenizer.convert_tokens_to_ids([".", "!"]),
        ]
        self.register_buffer("skipped", torch.tensor(skipped))

    @property
    def dimensions(self) -> int:
        return self.contract.dimensions

    @property
    def device(self) -> torch.device:
        return self.projection.weight.device

    def tokenize(self, texts: Sequence[str], role: str) -> Texts:
        return self.dense.tokenize(texts, role)

    def forward(self, texts: Texts) -> Float[Tensor, "text length dimension"]:
        ids, real = (padded.to(self.device) for padded in texts.padded())
        hidden = self.dense.backbone(input_ids=ids, attention_mask=real.long()).last_hidden_state
        vectors = functional.normalize(self.projection(hidden).float(), dim=-1)
        return vectors * (real & ~torch.isin(ids, self.skipped))[..., None]


def toy_late(folder: str, dimensions: int = 16) -> ToyLate:
    """The encoder over the toy BERT in `folder`."""
    return ToyLate(read_encoder(folder), dimensions).eval()
