"""Reads and writes a sparse model as a pipeline of sentence-transformers' `SparseEncoder`."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

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
_TYPE = re.compile(r"sentence_transformers(\.[a-z_]+)+\.(?:MLM)?(\w+)")


@dataclass(frozen=True, slots=True)
class SparseLayout(FolderLayout):
    """The settings in the folder of a sparse model, or of its backbone."""

    is_pipeline: bool = False
    """True: the folder says that it is a sparse model."""


def is_sparse(folder: Path) -> bool:
    """Returns true when `folder` holds a sparse model or its adapter."""
    if (folder / FILE).is_file():
        return SparseContract.describes(folder)
    return (folder / "modules.json").exists() and "SpladePooling" in _kinds(folder)


def read_sparse_layout(folder: Path) -> SparseLayout:
    """Reads the settings in `folder`.

    Raises BadModel for a pipeline other than a transformer and SPLADE's pooling by the maximum.
    """
    if not (folder / "modules.json").exists():
        return SparseLayout(folder)
    contract = SparseContract.read(folder)  # first: it names a model of another kind as such
    kinds = _kinds(folder)
    if list(kinds) != ["Transformer", "SpladePooling"]:
        raise BadModel(
            f"{folder / 'modules.json'}: {', '.join(kinds) or 'no module'}; a sparse model has"
            " Transformer (or MLMTransformer) and SpladePooling. Give such a model, or the masked"
            " language model that this one was trained from"
        )
    pooling = read_json(kinds["SpladePooling"], "config.json")
    for key, value in (("pooling_strategy", "max"), ("activation_function", "relu")):
        if pooling.get(key, value) != value:
            raise BadModel(
                f"{folder}: its {key} is {str(pooling[key])[:40]!r}, and only {value!r} is"
                " supported, as in SPLADE v2; give another model"
            )
    layout = with_lengths(SparseLayout(kinds["Transformer"], is_pipeline=True))
    if contract is not None:
        return replace(layout, contract=contract, **contract.model_dump(include=TEXT_FIELDS))
    query_prompt, document_prompt = stored_prompts(pipeline_settings(folder), folder)
    return replace(layout, query_prompt=query_prompt, document_prompt=document_prompt)


def _kinds(folder: Path) -> dict[str, Path]:
    """Returns the folder of each module by the last part of its type. Nothing is imported."""
    kinds = {}
    for entry in read_json_list(folder, "modules.json"):
        name, place = (
            (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        )
        match = _TYPE.fullmatch(name) if isinstance(name, str) else None
        if match is None or not isinstance(place, str):
            return {str(name)[:100]: folder}
        kinds[match[2]] = inside(folder, place) if place else folder
    return kinds


def write_sparse_pipeline(folder: Path, contract: SparseContract) -> None:
    """Writes the masked language model and SPLADE's pooling."""
    write_modules(folder, {"": "MLMTransformer", _POOLING: "SpladePooling"}, _PACKAGE)
    (folder / _POOLING).mkdir()
    pooling = {
        "pooling_strategy": "max",
        "activation_function": "relu",
        "word_embedding_dimension": contract.dimensions,
    }
    write_readable_json(folder / _POOLING / "config.json", pooling)
    write_settings(folder, contract, "dot", model_type="SparseEncoder")
