"""The examples of a model card run, and give the vectors and scores of the model."""

import re

import numpy as np
import pytest
import torch
from toy_models import SENTENCES

from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.formats.folder import save_encoder
from trainer.models.formats.library_examples import FOLDER
from trainer.models.static_student import StaticSettings, build_static_encoder

TEXTS = [SENTENCES[0], SENTENCES[2] * 3, "a question"]


def examples(folder, encoder):
    """The variables that each Python block of the saved model's card defines, by its imports."""
    save_encoder(encoder.eval(), folder)
    card = (folder / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    results = {}
    for block in blocks:
        names = {}
        exec(block.replace(FOLDER, str(folder)), names)
        results[re.search(r"^from (\w+)", block, re.MULTILINE)[1]] = names
    return results, card


@pytest.mark.parametrize(
    ("family", "pooling", "servers"),
    [
        ("bert", "mean", "Text Embeddings vLLM Infinity"),
        ("mpnet", "cls", "Text Embeddings Infinity"),
        ("qwen3", "last_token", "Text Embeddings vLLM Infinity"),
        ("distilbert", "mean", "Infinity"),
    ],
)
def test_dense_examples_give_our_vectors(toy_folder, tmp_path, family, pooling, servers):
    settings = DenseSettings(
        backbone=str(toy_folder(family)),
        pooling=pooling,
        query_prompt="query: ```",
        query_max_length_tokens=20,
        document_max_length_tokens=40,
    )
    encoder = build_dense_encoder(settings)
    results, card = examples(tmp_path / "model", encoder)
    assert results.keys() == {"sentence_transformers", "transformers"}
    there = results["transformers"]["encode"]
    with torch.no_grad():
        for role in ("query", "document"):
            here = encoder(encoder.tokenize(TEXTS, role))
            torch.testing.assert_close(there(TEXTS, role), here, atol=1e-5, rtol=0)
    scores = results["sentence_transformers"]["scores"]
    torch.testing.assert_close(results["transformers"]["scores"], scores, atol=1e-5, rtol=0)
    assert " ".join(re.findall(r"^# (Text Embeddings|vLLM|Infinity)", card, re.M)) == servers
    assert "A query begins with `query_prompt`" in card
    assert "nearfar's tests run the Python code above" in card
    assert "and nearfar's tests do not run them" in card


def test_projected_model_has_no_example_that_leaves_the_projection_out(toy_folder, tmp_path):
    settings = DenseSettings(backbone=str(toy_folder("bert")), projection_dimensions=32)
    results, card = examples(tmp_path / "model", build_dense_encoder(settings))
    assert results.keys() == {"sentence_transformers"}
    assert "infinity_emb" in card
    assert "vllm" not in card


def test_pair_examples_give_our_scores(toy_folder, tmp_path):
    encoder = build_cross_encoder(CrossEncoderSettings(backbone=str(toy_folder("bert"))))
    results, _ = examples(tmp_path / "model", encoder)
    with torch.no_grad():
        here = encoder(encoder.tokenize_pairs(["a question"], ["a document"]))
    torch.testing.assert_close(results["transformers"]["scores"], here, atol=1e-5, rtol=0)
    assert np.shape(results["sentence_transformers"]["scores"]) == (2,)


def test_table_example_gives_our_vectors(toy_folder, tmp_path):
    encoder = build_static_encoder(StaticSettings(backbone=str(toy_folder("bert")), dimensions=12))
    results, card = examples(tmp_path / "model", encoder)
    assert results.keys() == {"sentence_transformers", "safetensors"}
    with torch.no_grad():
        here = encoder(encoder.tokenize(TEXTS, "query"))
    there = [results["safetensors"]["encode"](text, "query") for text in TEXTS]
    np.testing.assert_allclose(there, here, atol=1e-5)
    assert "vllm" not in card
