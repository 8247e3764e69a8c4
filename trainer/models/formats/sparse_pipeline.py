"""Reads and writes a sparse model as a pipeline of sentence-transformers' `SparseEncoder`."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.errors import BadModel
from trainer.models.contracts.sparse import SparseContract
from trainer.models.contracts.text import FILE
from trainer.models.files.vetting import inside, read_json, read_json_list
from trainer.models.formats.layout import TEXT_FIELDS, FolderLayout
from trainer.models.formats.model_card import ModelCard
from trainer.models.formats.pipeline import write_modules, write_readable_json, write_settings
from trainer.models.formats.sentence_transformers import (
    pipeline_settings,
    stored_prompts,
    with_lengths,
)

CARD = ModelCard(
    header="""library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [sentence-transformers, sparse-encoder, splade, nearfar]""",
    title="A sparse (SPLADE) model",
    use="""Written by nearfar. `nearfar evaluate` uses this folder as it is, and so does sentence-transformers:

```python
from sentence_transformers import SparseEncoder
model = SparseEncoder("path/to/this/folder")
scores = model.similarity(model.encode_query(["a question"]), model.encode_document(["a document"]))
```""",  # noqa: E501 - a line of Markdown
    has_lengths_apart=True,
)
_PACKAGE = "sentence_transformers.sparse_encoder.models"
"""The name that every version of sentence-transformers with sparse models knows."""
_POOLING = "1_SpladePooling"
_ROUTED_POOLING = "document_1_SpladePooling"
QUERY_TABLE = "query_0_SparseStaticEmbedding"
"""The folder of the weights by which queries are encoded without a transformer."""
_ROUTER = "router_config.json"
_TABLE = "SparseStaticEmbedding"
_DOCUMENT_KINDS = ["Transformer", "SpladePooling"]
_TYPE = re.compile(r"sentence_transformers(\.[a-z_]+)+\.(?:MLM)?(\w+)")


@dataclass(frozen=True, slots=True)
class SparseLayout(FolderLayout):
    """The settings in the folder of a sparse model, or of its backbone."""

    is_pipeline: bool = False
    """True: the folder says that it is a sparse model."""
    query_table: Path | None = None
    """The folder of the weights by which queries are encoded; None: by the model."""


def is_sparse(folder: Path) -> bool:
    """Returns true when `folder` holds a sparse model or its adapter."""
    if (folder / FILE).is_file():
        return SparseContract.describes(folder)
    return (folder / "modules.json").exists() and "SpladePooling" in _kinds(folder)


def read_sparse_layout(folder: Path) -> SparseLayout:
    """Reads the settings in `folder`.

    Raises BadModel for a pipeline other than a transformer and SPLADE's pooling by the maximum, for
    all texts or, beside a table for queries, for documents.
    """
    if not (folder / "modules.json").exists():
        return SparseLayout(folder)
    contract = SparseContract.read(folder)  # first: it names a model of another kind as such
    kinds = _kinds(folder)
    if list(kinds) not in (_DOCUMENT_KINDS, [_TABLE, *_DOCUMENT_KINDS]):
        raise BadModel(
            f"{folder / 'modules.json'}: {', '.join(kinds) or 'no module'}; a sparse model has"
            " Transformer (or MLMTransformer) and SpladePooling, or a Router with these for"
            " documents and SparseStaticEmbedding for queries. Give such a model, or the masked"
            " language model that this one was trained from"
        )
    pooling = read_json(kinds["SpladePooling"], "config.json")
    for key, value in (("pooling_strategy", "max"), ("activation_function", "relu")):
        if pooling.get(key, value) != value:
            raise BadModel(
                f"{folder}: its {key} is {str(pooling[key])[:40]!r}, and only {value!r} is"
                " supported, as in SPLADE v2; give another model"
            )
    table = kinds.get(_TABLE)
    layout = with_lengths(SparseLayout(kinds["Transformer"], is_pipeline=True, query_table=table))
    if contract is not None:
        return replace(layout, contract=contract, **contract.model_dump(include=TEXT_FIELDS))
    if table is not None:
        longest = read_json(table, "tokenizer_config.json").get("model_max_length")
        longest = longest if type(longest) is int and longest > 0 else None
        layout = replace(layout, query_max_length_tokens=longest)
    query_prompt, document_prompt = stored_prompts(pipeline_settings(folder), folder)
    return replace(layout, query_prompt=query_prompt, document_prompt=document_prompt)


def _kinds(folder: Path) -> dict[str, Path]:
    """Returns the folder of each module by the last part of its type, those of queries first.
    Nothing is imported.
    """
    entries = [
        (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        for entry in read_json_list(folder, "modules.json")
    ]
    kinds = _kinds_of(entries, folder)
    return _routed_kinds(kinds["Router"]) if list(kinds) == ["Router"] else kinds


def _kinds_of(entries: list[tuple[Any, Any]], folder: Path) -> dict[str, Path]:
    kinds = {}
    for name, place in entries:
        match = _TYPE.fullmatch(name) if isinstance(name, str) else None
        if match is None or not isinstance(place, str):
            return {str(name)[:100]: folder}
        kinds[match[2]] = inside(folder, place) if place else folder
    return kinds


def _routed_kinds(folder: Path) -> dict[str, Path]:
    """Returns the folders of the modules of a router, if queries have one and documents two."""
    match read_json(folder, _ROUTER):
        case {
            "types": dict(types),
            "structure": {
                "query": [str(query)],
                "document": [str(transformer), str(pooling)],
                **other_routes,
            },
            "parameters": dict(parameters),
        } if not other_routes and not parameters.get("route_mappings"):
            places = (query, transformer, pooling)
            return _kinds_of([(types.get(place), place) for place in places], folder)
    return {"Router": folder}


def write_sparse_pipeline(folder: Path, contract: SparseContract) -> None:
    """Writes the masked language model and SPLADE's pooling, behind a router if queries are encoded
    by a table.
    """
    place = _ROUTED_POOLING if contract.has_query_table else _POOLING
    if contract.has_query_table:
        write_modules(folder, {"": "Router"}, "sentence_transformers.models")
        _write_router(folder, contract)
    else:
        write_modules(folder, {"": "MLMTransformer", place: "SpladePooling"}, _PACKAGE)
    (folder / place).mkdir()
    pooling = {
        "pooling_strategy": "max",
        "activation_function": "relu",
        "word_embedding_dimension": contract.dimensions,
    }
    write_readable_json(folder / place / "config.json", pooling)
    write_settings(folder, contract, "dot", model_type="SparseEncoder")


def _write_router(folder: Path, contract: SparseContract) -> None:
    """Writes which modules encode queries, which documents, and the length of documents."""
    kinds = {QUERY_TABLE: _TABLE, "": "MLMTransformer", _ROUTED_POOLING: "SpladePooling"}
    router = {
        "types": {place: f"{_PACKAGE}.{kind}" for place, kind in kinds.items()},
        "structure": {"query": [QUERY_TABLE], "document": ["", _ROUTED_POOLING]},
        "parameters": {"default_route": "document", "allow_empty_key": True},
    }
    write_readable_json(folder / _ROUTER, router)
    length = {"max_seq_length": contract.document_max_length_tokens, "do_lower_case": False}
    write_readable_json(folder / "sentence_bert_config.json", length)
