"""Reads the folder of a late-interaction model in the layout of PyLate, sentence-transformers or
Stanford; or that of an encoder from which training starts.
"""

import re
import string
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from trainer.errors import BadModel
from trainer.models.contracts.late_interaction import LateInteractionContract
from trainer.models.contracts.text import FILE
from trainer.models.files.vetting import (
    inside,
    read_json,
    read_json_list,
    read_tensors,
    weight_files,
)
from trainer.models.formats.layout import FolderLayout
from trainer.models.formats.pipeline import PIPELINE
from trainer.models.formats.sentence_transformers import read_layout
from trainer.models.parts.projection import Projection

METADATA = "artifact.metadata"
_TYPE = re.compile(
    r"(sentence_transformers|pylate)(\.[A-Za-z_]+)+\.(Transformer|Dense|MultiVectorMask|Normalize|Pooling)"
)
_PUNCTUATION = tuple(string.punctuation)
_PYLATE_LENGTHS = (32, 180)


@dataclass(frozen=True, slots=True)
class LateLayout(FolderLayout):
    """The settings in the folder of a late-interaction model, or of its backbone."""

    projection: Projection | None = None
    query_marker: str | None = None
    document_marker: str | None = None
    query_expansion: bool | None = None
    attend_to_expansion: bool | None = None
    skipped_tokens: tuple[str, ...] | None = None
    bounded_lengths: bool = False
    """True: the default length is the maximum of backbone and tokenizer, not that of ColBERT."""

    def as_contract_says(self, contract: LateInteractionContract, projection: Projection) -> Self:
        """Returns the layout with the settings of `contract`."""
        fields = contract.model_dump(
            exclude={"version", "kind", "backbone", "layers", "dimensions", "tokenizer_fingerprint"}
        )
        return replace(self, contract=contract, projection=projection, **fields)


def read_late_layout(folder: Path) -> LateLayout:
    """Reads the settings in `folder`.

    Raises BadModel for a model in another layout, or with more than projection and normalisation.
    """
    if not (folder / "modules.json").exists():
        stanford = (folder / METADATA).exists() or (
            (folder / "config.json").exists()
            and "HF_ColBERT" in str(read_json(folder, "config.json").get("architectures"))
        )
        return _stanford(folder) if stanford else LateLayout(folder)
    parts = _parts(folder)
    # The backbone of a model with one vector per text is a good start, too.
    if "Pooling" in parts:
        dense = read_layout(folder)
        return LateLayout(
            dense.backbone,
            dense.lower_case,
            query_prompt=dense.query_prompt,
            document_prompt=dense.document_prompt,
        )
    if "Dense" not in parts:
        raise BadModel(
            f"{folder / 'modules.json'} has neither pooling nor a projection, so this is not a"
            " late-interaction model; give another model"
        )
    layout = LateLayout(
        parts["Transformer"], projection=Projection.read(parts["Dense"], "token_embeddings")
    )
    contract = LateInteractionContract.read(folder)
    if contract is not None:
        assert layout.projection is not None
        return layout.as_contract_says(contract, layout.projection)
    pipeline = read_json(folder, PIPELINE) if (folder / PIPELINE).exists() else {}
    return (
        _pylate(layout, pipeline)
        if "MultiVectorMask" not in parts
        else _sentence_transformers(layout, parts, pipeline)
    )


def is_late_interaction(folder: Path) -> bool:
    """Returns true when `folder` holds a late-interaction model or its adapter."""
    if (folder / FILE).is_file():
        return LateInteractionContract.describes(folder)
    if (folder / "modules.json").exists():
        types = [
            str(entry.get("type"))
            for entry in read_json_list(folder, "modules.json")
            if isinstance(entry, dict)
        ]
        return not any(name.endswith("Pooling") for name in types) and any(
            name.endswith("Dense") for name in types
        )
    return (folder / "config.json").exists() and read_late_layout(folder).projection is not None


def _parts(folder: Path) -> dict[str, Path]:
    parts: dict[str, Path] = {}
    for entry in read_json_list(folder, "modules.json"):
        name, place = (
            (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        )
        match = _TYPE.fullmatch(name) if isinstance(name, str) else None
        if match is None or not isinstance(place, str) or match[3] in parts:
            raise BadModel(
                f"{folder / 'modules.json'}: module {str(name)[:100]!r}; what is read is one"
                " Transformer, one Dense, and perhaps MultiVectorMask and Normalize"
            )
        parts[match[3]] = inside(folder, place) if place else folder
    if next(iter(parts), None) != "Transformer":
        raise BadModel(
            f"{folder / 'modules.json'}: {', '.join(parts) or 'no module'}; the first must be"
            " Transformer"
        )
    return parts


def _pylate(layout: LateLayout, config: dict[str, Any]) -> LateLayout:
    """Adds the settings of PyLate 1.x, in config_sentence_transformers.json, or its defaults."""
    prompts = config.get("prompts") or {}
    return replace(
        layout,
        query_marker=_text(config.get("query_prefix", "[Q] ")),
        document_marker=_text(config.get("document_prefix", "[D] ")),
        query_prompt=_text(prompts.get("query")) or "",
        document_prompt=_text(prompts.get("document")) or "",
        query_max_length_tokens=_length(config.get("query_length")) or _PYLATE_LENGTHS[0],
        document_max_length_tokens=_length(config.get("document_length")) or _PYLATE_LENGTHS[1],
        query_expansion=config.get("do_query_expansion") is not False,
        attend_to_expansion=config.get("attend_to_expansion_tokens") is True,
        skipped_tokens=_words(config.get("skiplist_words"), _PUNCTUATION),
    )


def _sentence_transformers(
    layout: LateLayout, parts: dict[str, Path], pipeline: dict[str, Any]
) -> LateLayout:
    """Adds the settings of sentence-transformers 6, in which markers are a part of prompts."""
    mask = _read_mask(layout, parts)
    name = next(
        (
            name
            for name in ("sentence_bert_config.json", "config_transformer.json")
            if (layout.backbone / name).exists()
        ),
        None,
    )
    settings = read_json(layout.backbone, name) if name else {}
    expansion, prompts = settings.get("query_expansion"), pipeline.get("prompts") or {}
    longest = _length(settings.get("max_seq_length"))
    width = (
        _length(expansion.get("length"))
        if isinstance(expansion, dict)
        else _length(settings.get("query_length")) or longest
    )
    if isinstance(expansion, dict) and (
        expansion.get("strategy") != "fixed" or expansion.get("token")
    ):
        raise BadModel(
            f"{layout.backbone / str(name)}: query expansion other than with mask tokens to a fixed"
            " length is not read"
        )
    return replace(
        layout,
        query_marker="",
        document_marker="",
        query_prompt=_text(prompts.get("query")) or "",
        document_prompt=_text(prompts.get("document")) or "",
        query_max_length_tokens=width,
        document_max_length_tokens=_length(settings.get("document_length")) or longest,
        query_expansion=isinstance(expansion, dict),
        attend_to_expansion=isinstance(expansion, dict) and expansion.get("attend") is True,
        skipped_tokens=_words(mask.get("skiplist_words"), ()),
        lower_case=settings.get("do_lower_case") is True,
        bounded_lengths=True,
    )


def _read_mask(layout: LateLayout, parts: dict[str, Path]) -> dict[str, Any]:
    mask = read_json(parts["MultiVectorMask"], "config.json")
    if (
        mask.get("keep_only_token_ids")
        or mask.get("skiplist_tasks", ["document"]) != ["document"]
        or "Normalize" not in parts
    ):
        raise BadModel(
            f"{layout.backbone}: only a model that normalises vectors, and scores all tokens of"
            " queries and those of documents outside a skip list, can be read; give another model"
        )
    return mask


def _stanford(folder: Path) -> LateLayout:
    """Reads a model of Stanford's library: one file of weights, settings in artifact.metadata."""
    metadata = read_json(folder, METADATA) if (folder / METADATA).exists() else {}
    config = metadata["config"] if isinstance(metadata.get("config"), dict) else metadata
    weight = next(
        (
            tensors["linear.weight"]
            for tensors in map(read_tensors, weight_files(folder))
            if "linear.weight" in tensors
        ),
        None,
    )
    if weight is None:
        raise BadModel(
            f"{folder} claims to be a ColBERT model, but its weights have no linear.weight; copy"
            " the model again"
        )
    return LateLayout(
        folder,
        projection=Projection.of(weight),
        query_marker=_text(config.get("query_token_id")) or "[unused0]",
        document_marker=_text(config.get("doc_token_id")) or "[unused1]",
        query_prompt="",
        document_prompt="",
        query_max_length_tokens=_length(config.get("query_maxlen")) or _PYLATE_LENGTHS[0],
        document_max_length_tokens=_length(config.get("doc_maxlen")) or _PYLATE_LENGTHS[1],
        query_expansion=True,
        attend_to_expansion=config.get("attend_to_mask_tokens") is True,
        skipped_tokens=_PUNCTUATION if config.get("mask_punctuation", True) else (),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _length(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _words(value: Any, default: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else default
