"""Models in the layouts that other libraries write, made by hand."""

import json
from pathlib import Path

import pytest
import torch
from late_interaction_toys import make_marked_bert, write_stanford_metadata
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="session")
def marked_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT to start from. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("marked") / "bert"
    make_marked_bert(folder)
    return folder


@pytest.fixture
def stanford_folder(marked_bert: Path, tmp_path: Path) -> Path:
    """The tiny BERT as Stanford's ColBERT saves it: backbone and `linear.weight` in one file,
    settings in artifact.metadata.
    """
    folder = tmp_path / "stanford"
    folder.mkdir()
    weights = {
        f"bert.{name}": value
        for name, value in load_file(marked_bert / "model.safetensors").items()
    }
    weights["linear.weight"] = (
        torch.randn(16, 32, generator=torch.Generator().manual_seed(3)) / 32**0.5
    )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((marked_bert / "config.json").read_text()) | {
        "architectures": ["HF_ColBERT"]
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((marked_bert / name).read_text())
    write_stanford_metadata(folder)
    return folder
