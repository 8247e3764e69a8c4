"""Hugging Face's sequence classifiers with one output, the format of cross-encoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from trainer.errors import BadModel
from trainer.models.contracts.cross_encoder import CrossEncoderContract
from trainer.models.contracts.text import FILE
from trainer.models.files.vetting import read_json
from trainer.models.parts.backbone import load_into
from trainer.scores import exact

ARCHITECTURE = "ForSequenceClassification"


class ExactLinear(nn.Linear):
    """An `nn.Linear` in float32 or better, also under autocast.

    A score in bfloat16 has only three digits, so that different documents would have equal scores.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Returns x W^T + b over the last axis."""
        with torch.autocast(input.device.type, enabled=False):
            return functional.linear(
                exact(input), exact(self.weight), None if self.bias is None else exact(self.bias)
            )


def is_cross_encoder(folder: Path) -> bool:
    """Returns true when the contract or architecture in `folder` is of a cross-encoder."""
    if (folder / FILE).is_file():
        return CrossEncoderContract.describes(folder)
    if not (folder / "config.json").is_file():
        return False
    names = read_json(folder, "config.json").get("architectures")
    return isinstance(names, list) and any(str(name).endswith(ARCHITECTURE) for name in names)


def check_gives_vectors(folder: Path) -> None:
    """Raises BadModel for a cross-encoder, which gives no vectors."""
    if is_cross_encoder(folder):
        raise BadModel(
            f"{folder} is a cross-encoder: it scores a query and a document together and has no"
            " vectors. Search and measure with a bi-encoder or a late-interaction model, and give"
            " this one as --rerank"
        )


def one_score(config: PretrainedConfig) -> PretrainedConfig:
    """Returns the configuration of a classifier with one output.

    Raises BadModel when it already has several outputs.
    """
    names: list[str] = config.architectures or []
    if any(name.endswith(ARCHITECTURE) for name in names) and config.num_labels != 1:
        raise BadModel(
            f"the model gives {config.num_labels} numbers per pair, but one score is needed; use a"
            " cross-encoder with one score, or its backbone"
        )
    config.num_labels = 1
    return config


def load_classifier(
    folder: Path,
    config: PretrainedConfig,
    quantize_4bit: bool = False,
    layers: Sequence[int] | None = None,
) -> PreTrainedModel:
    """Loads the transformer in `folder` with a head that gives one number. Raises BadModel.

    If the folder has no head, it is drawn from torch's generator, with the layers before it, such
    as BERT's pooler.
    """
    if quantize_4bit:
        raise BadModel(
            "`model.tuning.quantize_4bit` is not available for cross-encoders, whose head is fully"
            " trained; set it to false"
        )
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise BadModel(
            f"{folder}: transformers has no sequence classifier of architecture"
            f" {config.model_type}; take another backbone"
        )
    model_class: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    model, missing = load_into(model_class, folder, one_score(config), layers=layers)
    heads = whole_modules(model)
    missing_weights = [
        name for name in missing if not any(name.startswith(f"{head}.") for head in heads)
    ]
    if missing_weights or (missing and is_cross_encoder(folder)):
        first = ", ".join((missing_weights or missing)[:3])
        raise BadModel(
            f"{folder}: {len(missing_weights or missing)} weights of {model_class.__name__} are"
            f" missing, the first: {first}"
        )
    for layer in (
        layer
        for head in heads
        for layer in model.get_submodule(head).modules()
        if type(layer) is nn.Linear
    ):
        layer.__class__ = ExactLinear
    return model


def whole_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """Returns the names of the modules outside the transformer: the head, and BERT's pooler."""
    prefix = model.base_model_prefix
    heads = [
        name
        for name, module in model.named_children()
        if name != prefix and any(True for _ in module.parameters())
    ]
    pooler = getattr(model.base_model, "pooler", None)
    return (*heads, *([f"{prefix}.pooler"] if pooler is not None else []))
