"""Hugging Face's masked language models, whose head becomes that of a sparse model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig, PreTrainedModel

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.kernels.packing import Packing
from trainer.kernels.vocabulary_maximum import vocabulary_maximum
from trainer.models.parts.backbone import load_into
from trainer.models.parts.packed import micro_batch

_ADVICE = "give a masked language model, such as bert-base-uncased or distilbert-base-uncased"
_TOLERANCE = 1e-4


class VocabularyHead(nn.Linear):
    """The last layer of a masked language model. In place of one number per token and word, it
    gives the largest activation per text and word.
    """

    packing: Packing
    """Where the texts of the micro-batch are. It is set before each pass."""

    def forward(self, input: Float[Tensor, "row token width"]) -> Float[Tensor, "text vocabulary"]:
        """Returns the activations of texts that are packed into one row, or padded to one each."""
        packing = self.packing
        is_packed = len(input) == 1
        states = input[0, : len(packing.positions)] if is_packed else packing.unpad(input)
        return vocabulary_maximum(states, self.weight, self.bias, packing)


def load_masked_lm(
    folder: Path,
    config: PretrainedConfig,
    quantize_4bit: bool = False,
    layers: Sequence[int] | None = None,
) -> PreTrainedModel:
    """Loads the masked language model in `folder`, with a `VocabularyHead`.

    Raises BadModel for a model without its head, or with another kind of head.
    """
    if quantize_4bit:
        raise BadModel(
            "`model.tuning.quantize_4bit` is not available for sparse models; set it to false"
        )
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise BadModel(
            f"{folder}: transformers has no masked language model of architecture"
            f" {config.model_type}, so it has no word scores; {_ADVICE}"
        )
    model_class: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    model, missing = load_into(model_class, folder, config, layers=layers)
    if missing:
        raise BadModel(
            f"{folder} has no masked-language-model head, which gives the weight of each word:"
            f" {len(missing)} weights of {model_class.__name__} are missing, the first:"
            f" {', '.join(missing[:3])}; {_ADVICE}"
        )
    _change_head(model, folder)
    return model


def vocabulary_head(model: Any) -> VocabularyHead:
    """Returns the head of a model that `load_masked_lm` has loaded, also inside an adapter.

    Raises BadModel if an adapter was put around the head.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, VocabularyHead):
        raise BadModel(
            "`model.tuning.target_modules` names the output layer over the vocabulary, to which no"
            " adapter can be added; leave it out"
        )
    return head


@torch.no_grad()
def _change_head(model: PreTrainedModel, folder: Path) -> None:
    """Gives the model a `VocabularyHead`. Raises BadModel unless it gives the same numbers."""
    tokens = Texts.of([[1, 2, 3]], [0])
    inputs = tokens.tokens[None]
    logits = model(input_ids=inputs).logits
    head: Any = model.get_output_embeddings()
    is_equal = False
    if type(head) is nn.Linear:
        head.__class__ = VocabularyHead
        vocabulary_head(model).packing = micro_batch(tokens, inputs.device).packing
        activations = model(input_ids=inputs).logits
        plain_form = logits.amax(1).relu().log1p()
        is_equal = activations.shape == plain_form.shape and torch.allclose(
            activations, plain_form, atol=_TOLERANCE, rtol=_TOLERANCE
        )
    if not is_equal:
        raise BadModel(
            f"{folder}: {type(model).__name__} does not end with a linear layer over the"
            f" vocabulary, so no sparse model can be made of it; {_ADVICE}"
        )
