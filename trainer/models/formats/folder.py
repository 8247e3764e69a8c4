"""Writes an encoder as a folder for nearfar, sentence-transformers, PyLate and servers."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from trainer.errors import BadFolder, BadModel
from trainer.models import static
from trainer.models.contracts.text import FILE
from trainer.models.encoder import Encoder
from trainer.models.files.vetting import read_json
from trainer.models.formats.pipeline import write_readable_json
from trainer.models.parts import lora
from trainer.models.tokenizers import texts as tokenization
from trainer.storage.atomic import atomic_folder, check_replaceable, write_safetensors, write_text

_WEIGHTS = "model.safetensors"
_MODEL_FILES = re.compile(
    r"(nearfar|config|modules|router_config|preprocessor_config|sentence_bert_config|config_sentence_transformers|adapter_config)\.json|(adapter_)?model\.safetensors|README\.md"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt|(tokenizer|spiece|sentencepiece\.bpe|spm)\.model"
    r"|bpe\.codes|chat_template\.jinja|adapter|additional_chat_templates|((query|document)_)?\d_(Pooling|SpladePooling|SparseStaticEmbedding|Dense|Normalize)"
)
"""Names of the files and folders of a model."""


def save_encoder(encoder: Encoder, folder: Path, replace: bool = False) -> None:
    """Writes the encoder: merged weights, tokenizer, contract, files for other libraries,
    `adapter/`.

    The folder is complete or missing; with `replace`, the old one stays until then. The encoder is
    not changed. Raises BadFolder as `check_model_folder` does, before and after.
    """
    check_model_folder(folder, replace)
    with atomic_folder(folder) as partial:
        _write(encoder, partial)
        check_model_folder(folder, replace)  # again: writing took its time


def check_model_folder(folder: Path, replace: bool) -> None:
    """Raises BadFolder when a model cannot be written to `folder`.

    It may not exist; with `replace`, it may hold a model that nearfar has written.
    """
    if not os.path.lexists(folder):
        return
    if not replace:
        raise BadFolder(
            f"{folder} exists already; give another name or remove it, or replace the model there"
            " with --replace"
        )
    check_replaceable(folder, "model")
    entries = list(folder.rglob("*"))
    strange = sorted(
        str(path.relative_to(folder))
        for path in entries
        if path.is_symlink() or not _MODEL_FILES.fullmatch(path.name)
    )
    if strange:
        raise BadFolder(
            f"{folder} holds {strange[0]!r}, which is not of a model, and --replace will not remove"
            " it; move it away, or give another name"
        )
    if entries and not _is_ours(folder):
        raise BadFolder(
            f"{folder} is not the whole folder of a model that nearfar wrote, and --replace will"
            " not remove it; give another name"
        )


def _is_ours(folder: Path) -> bool:
    try:
        return (folder / _WEIGHTS).is_file() and {
            "version",
            "backbone",
            "tokenizer_fingerprint",
        } <= read_json(folder, FILE).keys()
    except BadModel:
        return False


def _write(encoder: Encoder, folder: Path) -> None:
    contract = encoder.contract
    has_adapter = encoder.HAS_ADAPTER_FOLDER and isinstance(encoder.backbone, PeftModel)
    if encoder.has_layers:
        _write_transformer(encoder, folder)
    else:
        write_safetensors(folder / _WEIGHTS, _state(encoder.backbone), {"format": "pt"})
        static.write_tokenizer(encoder.tokenizer, folder)
    contract.write(folder)
    encoder.write_pipeline(folder)
    if has_adapter:
        _write_adapter(encoder, folder / "adapter")
    architecture = encoder.pristine_config.model_type if encoder.has_layers else None
    backbone: Any = encoder.backbone
    width = 0 if encoder.projection is not None else getattr(backbone.config, "hidden_size", 0)
    card = encoder.card.text(contract, has_adapter, architecture, width)
    write_text(folder / "README.md", card)


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


def _write_transformer(encoder: Encoder, folder: Path) -> None:
    """Writes weights, configuration and tokenizer.

    Raises BadModel when the tokenizer cannot be read back from its files.
    """
    contract, config = encoder.contract, encoder.pristine_config
    write_safetensors(folder / _WEIGHTS, lora.merged_state(encoder.backbone), {"format": "pt"})
    config.architectures = [type(_plain_backbone(encoder)).__name__]
    config.dtype = torch.float32
    config.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    longest = max(contract.query_max_length_tokens, contract.document_max_length_tokens)
    settings = {"max_seq_length": longest, "do_lower_case": False}
    write_readable_json(folder / "sentence_bert_config.json", settings)
    tokenizer = tokenization.read_tokenizer(folder, config)
    if tokenization.tokenizer_fingerprint(tokenizer) != contract.tokenizer_fingerprint:
        raise BadModel(
            f"the tokenizer {type(encoder.tokenizer).__name__} does not come back from its own"
            " files as it was; nothing was saved"
        )


def _write_adapter(encoder: Encoder, folder: Path) -> None:
    backbone: Any = encoder.backbone
    lora.save_adapter(backbone, folder, encoder.contract.backbone, encoder.whole_modules())
    encoder.contract.write(folder)
    encoder.write_beside_adapter(folder)


def _plain_backbone(encoder: Encoder) -> PreTrainedModel:
    backbone: Any = encoder.backbone
    return backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone
