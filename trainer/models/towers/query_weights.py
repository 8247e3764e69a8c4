"""A table with one weight per word of the vocabulary, which encodes queries without a transformer,
stored as a SparseStaticEmbedding module of sentence-transformers.
"""

from copy import deepcopy
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from trainer.errors import BadModel
from trainer.models.files.vetting import inside, read_tensors
from trainer.models.parts.packed import MicroBatch
from trainer.models.tokenizers.texts import special_tokens
from trainer.scores import exact
from trainer.storage.atomic import write_safetensors, write_text


class QueryWeights(nn.Module):
    """Gives a query the weight of each of its distinct words, and zero to all other words.

    Weights are not negative: the weight of a word is max(0, w). A weight of zero has no gradient
    and stays zero, which special tokens rely on.
    """

    def __init__(self, weight: Float[Tensor, " word"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.is_new = False

    @classmethod
    def fresh(cls, words: int, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Returns a new table: zero for special tokens, and 1 for all other words."""
        table = cls(torch.ones(words))
        table.weight.data[tokenizer.all_special_ids] = 0.0
        table.is_new = True
        return table

    def forward(self, batch: MicroBatch) -> Float[Tensor, "text vocabulary"]:
        """Returns the weights of queries, in float32 or better."""
        weights, texts = exact(self.weight.relu()), len(batch.texts)
        rows = torch.arange(texts, device=batch.device).repeat_interleave(
            batch.packing.counts, output_size=len(batch.tokens)
        )
        is_present = torch.zeros(texts * len(weights), dtype=torch.bool, device=batch.device)
        is_present.scatter_(0, rows * len(weights) + batch.tokens, True)
        return torch.where(is_present.view(texts, -1), weights, 0.0)

    @classmethod
    def read(cls, folder: Path, words: int, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Reads the module in `folder`. Raises BadModel unless it has one weight, of at least zero,
        for each of that many words.

        Special tokens around a query get the weight zero: the module sees none.
        """
        path = inside(folder, "model.safetensors")
        if not path.is_file():
            raise BadModel(
                f"{folder} holds no model.safetensors; weights in any other format are not opened"
            )
        tensors = read_tensors(path)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {"weight": (words,)}:
            raise BadModel(
                f"{path} holds {str(shapes)[:80]}, but a weight for each of the {words:,} words of"
                " the documents' vectors is needed; take both from the same model"
            )
        weight = tensors["weight"].float()
        if not bool((weight >= 0).all()):
            raise BadModel(
                f"{path}: {int((~(weight >= 0)).sum())} words have a weight below zero, or none;"
                " only weights of at least zero are supported, as in inverted lists"
            )
        weight[special_ids(tokenizer)] = 0.0
        return cls(weight)

    def write(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, max_length_tokens: int
    ) -> None:
        """Writes the module, whose tokenizer cuts queries at `max_length_tokens`, special tokens
        included.
        """
        folder.mkdir()
        weight = self.weight.detach().relu().cpu()
        write_safetensors(folder / "model.safetensors", {"weight": weight}, {"format": "pt"})
        write_text(folder / "config.json", '{\n  "frozen": false\n}\n')
        tokenizer = deepcopy(tokenizer)
        tokenizer.model_max_length = max_length_tokens - len(special_ids(tokenizer))
        tokenizer.save_pretrained(folder)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the ids of the special tokens around a text."""
    leading_ids, trailing_ids = special_tokens(tokenizer)
    return leading_ids + trailing_ids
