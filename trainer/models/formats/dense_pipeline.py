"""Writes a model with one vector per text as a pipeline of sentence-transformers."""

from pathlib import Path
from typing import Any

from trainer.models.contracts.dense import DenseContract
from trainer.models.formats.library_examples import dense_examples
from trainer.models.formats.model_card import ModelCard
from trainer.models.formats.pipeline import write_modules, write_readable_json, write_settings
from trainer.models.formats.sentence_transformers import KINDS
from trainer.models.parts.projection import Projection

CARD = ModelCard(
    header="""library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, nearfar]""",
    title="A text-embedding model",
    use="""Written by nearfar. `nearfar encode` and `nearfar search` use this folder as it is, and so does sentence-transformers:

```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("path/to/this/folder")
scores = model.similarity(model.encode_query(["a question"]), model.encode_document(["a document"]))
```""",  # noqa: E501 - a line of Markdown
    has_lengths_apart=True,
    examples=dense_examples,
)
_CLASSIC_NAMES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "sqrt": "mean_sqrt_len_tokens",
    "weighted_mean": "weightedmean_tokens",
    "last_token": "lasttoken",
}


def write_dense_pipeline(
    folder: Path, contract: DenseContract, projection: Projection | None, width: int
) -> None:
    """Writes transformer, pooling, and optional projection and normalisation."""
    (folder / "1_Pooling").mkdir()
    write_readable_json(folder / "1_Pooling" / "config.json", _pooling_config(contract, width))
    _write(folder, ["Transformer", "Pooling"], contract, projection)


def write_static_pipeline(
    folder: Path, contract: DenseContract, projection: Projection | None
) -> None:
    """Writes a table of token vectors, and optional projection and normalisation.

    sentence-transformers reads it since version 3.2.
    """
    _write(folder, ["StaticEmbedding"], contract, projection)


def _write(
    folder: Path, first: list[str], contract: DenseContract, projection: Projection | None
) -> None:
    kinds = [
        *first,
        *(["Dense"] if projection is not None else []),
        *(["Normalize"] if contract.normalize else []),
    ]
    places = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    write_modules(folder, dict(zip(places, kinds, strict=True)))
    for place, kind in zip(places, kinds, strict=True):
        if kind == "Dense" and projection is not None:
            projection.write(folder / place)
        elif kind == "Normalize":
            (folder / place).mkdir()
            write_readable_json(folder / place / "config.json", {})
    write_settings(folder, contract, contract.similarity)


def _pooling_config(contract: DenseContract, width: int) -> dict[str, Any]:
    """Returns the classic booleans, which servers read, and the new name.

    Every version of sentence-transformers understands one of them.
    """
    name = next(
        their_name for their_name, our_name in KINDS.items() if our_name == contract.pooling
    )
    booleans = {
        f"pooling_mode_{their_name}": our_name == contract.pooling
        for our_name, their_name in _CLASSIC_NAMES.items()
    }
    return {
        "word_embedding_dimension": width,
        **booleans,
        "pooling_mode": name,
        "include_prompt": contract.include_prompt,
    }
