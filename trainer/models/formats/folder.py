"""Writes an encoder as a folder that nearfar, sentence-transformers (old and new), PyLate and
servers read.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from transformers import PreTrainedModel

from trainer.errors import BadFolder, BadModel
from trainer.models import static
from trainer.models.contract import FILE, Contract, TextContract
from trainer.models.cross_encoder import CrossEncoder
from trainer.models.dense import DenseEncoder
from trainer.models.encoder import Encoder
from trainer.models.files.vetting import read_json
from trainer.models.formats.model_card import model_card
from trainer.models.formats.pylate import PIPELINE
from trainer.models.formats.sentence_transformers import KINDS
from trainer.models.late_interaction import LateInteractionEncoder
from trainer.models.parts import lora
from trainer.models.parts.projection import Projection
from trainer.models.tokenizers import texts as tokenization
from trainer.storage.atomic import atomic_folder, check_replaceable, write_safetensors

_WEIGHTS = "model.safetensors"
_OF_MODEL = re.compile(
    r"(nearfar|config|modules|sentence_bert_config|config_sentence_transformers|adapter_config)\.json|(adapter_)?model\.safetensors|README\.md"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt|(tokenizer|spiece|sentencepiece\.bpe|spm)\.model"
    r"|bpe\.codes|chat_template\.jinja|adapter|additional_chat_templates|\d_(Pooling|Dense|Normalize)"
)
"""Names of what is written into the folder of a model, and into those inside it."""


def save_encoder(encoder: Encoder, folder: Path, replace: bool = False) -> None:
    """Writes the encoder: merged weights, tokenizer, contract, the files other readers need, and
    the adapter alone under `adapter/`.

    The folder appears whole or not at all, and with `replace` what was there stays until then. The
    encoder in training is not changed. Raises BadFolder where `check_model_folder` does, before and
    after.
    """
    check_model_folder(folder, replace)
    with atomic_folder(folder) as partial:
        _write(encoder, partial)
        check_model_folder(folder, replace)  # again: writing took its time


def check_model_folder(folder: Path, replace: bool) -> None:
    """Raises BadFolder when a model cannot be written to `folder`, which holds something (with
    `replace`: something other than a model of ours).
    """
    if not os.path.lexists(folder):
        return
    if not replace:
        raise BadFolder(
            f"{folder} exists already; give another name or remove it, or replace the model there"
            " with --replace"
        )
    check_replaceable(folder, "model")
    there = list(folder.rglob("*"))
    strange = sorted(
        str(path.relative_to(folder))
        for path in there
        if path.is_symlink() or not _OF_MODEL.fullmatch(path.name)
    )
    if strange:
        raise BadFolder(
            f"{folder} holds {strange[0]!r}, which is not of a model, and --replace will not remove"
            " it; move it away, or give another name"
        )
    if there and not _is_ours(folder):
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
    if isinstance(encoder, DenseEncoder) and encoder.is_static:
        _write_static(encoder, folder)
        return
    contract, plain = encoder.contract, _plain_backbone(encoder)
    write_safetensors(folder / _WEIGHTS, lora.merged_state(encoder.backbone), {"format": "pt"})
    config = encoder.pristine_config
    config.architectures, config.dtype = [type(plain).__name__], torch.float32
    if isinstance(encoder, CrossEncoder):
        config.sentence_transformers = {
            "activation_fn": "torch.nn.modules.linear.Identity"
        }  # else its CrossEncoder gives sigmoids of the scores
    config.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    contract.write(folder)
    longest = max(contract.query_max_length_tokens, contract.document_max_length_tokens)
    _write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False}
    )
    match encoder:
        case DenseEncoder():
            _write_dense_pipeline(
                encoder.contract, encoder.projection, plain.config.hidden_size, folder
            )
        case LateInteractionEncoder():
            _write_late_pipeline(encoder, folder)
        case CrossEncoder():
            pass  # a sequence classifier is whole by its config.json
        case _:
            raise TypeError(f"{type(encoder).__name__} has no layout to be saved in")
    if isinstance(encoder.backbone, PeftModel):
        lora.save_adapter(
            encoder.backbone, folder / "adapter", contract.backbone, encoder.whole_modules()
        )
        contract.write(folder / "adapter")
        if encoder.projection is not None:
            encoder.projection.write(
                folder / "adapter" / ("2_Dense" if isinstance(encoder, DenseEncoder) else "1_Dense")
            )
    (folder / "README.md").write_text(
        model_card(contract, adapter=isinstance(encoder.backbone, PeftModel)), encoding="utf-8"
    )
    if (
        tokenization.fingerprint(tokenization.read_tokenizer(folder, config))
        != contract.tokenizer_fingerprint
    ):
        raise BadModel(
            f"the tokenizer {type(encoder.tokenizer).__name__} does not come back from its own"
            " files as it was; nothing was saved"
        )


def _write_static(encoder: DenseEncoder, folder: Path) -> None:
    """A StaticEmbedding, perhaps a projection, and normalisation, as sentence-transformers of any
    version since 3.2 reads them.
    """
    contract, state = encoder.contract, encoder.backbone.state_dict()
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_safetensors(folder / _WEIGHTS, weights, {"format": "pt"})
    static.write_tokenizer(encoder.tokenizer, folder)
    contract.write(folder)
    kinds = [
        *(["Dense"] if encoder.projection is not None else []),
        *(["Normalize"] if contract.normalize else []),
    ]
    places = {f"{number}_{kind}": kind for number, kind in enumerate(kinds, 1)}
    _write_modules(
        folder,
        {
            place: f"sentence_transformers.models.{kind}"
            for place, kind in {"": "StaticEmbedding", **places}.items()
        },
    )
    for place, kind in places.items():
        if kind == "Dense" and encoder.projection is not None:
            encoder.projection.write(folder / place)
        else:
            (folder / place).mkdir()
            _write_json(folder / place / "config.json", {})
    _write_json(folder / PIPELINE, _pipeline_config(contract, contract.similarity))
    (folder / "README.md").write_text(model_card(contract, adapter=False), encoding="utf-8")


def _plain_backbone(encoder: Encoder) -> PreTrainedModel:
    model: Any = (
        encoder.backbone.get_base_model()
        if isinstance(encoder.backbone, PeftModel)
        else encoder.backbone
    )
    return model


def _write_modules(folder: Path, modules: Mapping[str, str]) -> None:
    """modules.json: folder of each module to its type, in the order of the pipeline."""
    entries = [
        {"idx": index, "name": str(index), "path": place, "type": kind}
        for index, (place, kind) in enumerate(modules.items())
    ]
    _write_json(folder / "modules.json", entries)


def _write_dense_pipeline(
    contract: Contract, projection: Projection | None, width: int, folder: Path
) -> None:
    """Transformer, pooling, perhaps a projection and normalisation, as sentence-transformers of any
    version reads them.
    """
    kinds = [
        "Transformer",
        "Pooling",
        *(["Dense"] if projection is not None else []),
        *(["Normalize"] if contract.normalize else []),
    ]
    places = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    _write_modules(
        folder,
        {
            place: f"sentence_transformers.models.{kind}"
            for place, kind in zip(places, kinds, strict=True)
        },
    )
    (folder / "1_Pooling").mkdir()
    _write_json(folder / "1_Pooling" / "config.json", _pooling_config(contract, width))
    if projection is not None:
        projection.write(folder / "2_Dense")
    if contract.normalize:
        (folder / places[-1]).mkdir()
        _write_json(folder / places[-1] / "config.json", {})
    _write_json(folder / PIPELINE, _pipeline_config(contract, contract.similarity))


def _write_late_pipeline(encoder: LateInteractionEncoder, folder: Path) -> None:
    """Transformer and projection under the settings of PyLate 1.x; sentence-transformers 6 reads
    that too, and adds mask and normalisation itself.
    """
    contract = encoder.contract
    assert encoder.projection is not None
    _write_modules(
        folder,
        {
            place: f"sentence_transformers.models.{kind}"
            for place, kind in (("", "Transformer"), ("1_Dense", "Dense"))
        },
    )
    encoder.projection.write(folder / "1_Dense")
    late = {
        "model_type": "ColBERT",
        "query_prefix": contract.query_marker,
        "document_prefix": contract.document_marker,
        "query_length": contract.query_max_length_tokens,
        "document_length": contract.document_max_length_tokens,
        "do_query_expansion": contract.query_expansion,
        "attend_to_expansion_tokens": contract.attend_to_expansion,
        "skiplist_words": list(contract.skipped_tokens),
    }
    _write_json(folder / PIPELINE, _pipeline_config(contract, "MaxSim") | late)


def _pooling_config(contract: Contract, width: int) -> dict[str, Any]:
    """The classic booleans, which servers read, and the new name; both are understood by
    sentence-transformers of any version.
    """
    classic = {
        "cls": "cls_token",
        "max": "max_tokens",
        "mean": "mean_tokens",
        "sqrt": "mean_sqrt_len_tokens",
        "weighted_mean": "weightedmean_tokens",
        "last_token": "lasttoken",
    }
    name = next(theirs for theirs, ours in KINDS.items() if ours == contract.pooling)
    booleans = {
        f"pooling_mode_{theirs}": ours == contract.pooling for ours, theirs in classic.items()
    }
    return {
        "word_embedding_dimension": width,
        **booleans,
        "pooling_mode": name,
        "include_prompt": contract.include_prompt,
    }


def _pipeline_config(contract: TextContract, similarity: str) -> dict[str, Any]:
    return {
        "__version__": {
            "sentence_transformers": "3.0.0",
            "transformers": transformers.__version__,
            "pytorch": str(torch.__version__),
        },
        "prompts": {"query": contract.query_prompt, "document": contract.document_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": similarity,
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
