"""Files in which sentence-transformers finds the parts of a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from trainer.models.contracts.text import TextContract
from trainer.storage.atomic import write_text

PIPELINE = "config_sentence_transformers.json"


def write_modules(
    folder: Path, kinds: Mapping[str, str], package: str = "sentence_transformers.models"
) -> None:
    """Writes modules.json: the folder of each module and its kind, in the order of the pipeline.

    `package` is the place of the kinds in sentence-transformers.
    """
    entries = [
        {
            "idx": index,
            "name": str(index),
            "path": place,
            "type": f"{package}.{kind}",
        }
        for index, (place, kind) in enumerate(kinds.items())
    ]
    write_readable_json(folder / "modules.json", entries)


def write_settings(folder: Path, contract: TextContract, similarity: str, **settings: Any) -> None:
    """Writes prompts, similarity, and other `settings` of a family."""
    common = {
        "__version__": {
            "sentence_transformers": "3.0.0",
            "transformers": transformers.__version__,
            "pytorch": str(torch.__version__),
        },
        "prompts": {"query": contract.query_prompt, "document": contract.document_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": similarity,
    }
    write_readable_json(folder / PIPELINE, common | settings)


def write_readable_json(path: Path, content: Any) -> None:
    """Writes indented JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
