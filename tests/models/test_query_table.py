"""Sparse models whose queries are encoded by a table: vectors, files, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from toy_models import SENTENCES, masked_lm

from trainer.errors import BadModel
from trainer.models import loading
from trainer.models.families import read_model
from trainer.models.formats.folder import check_model_folder, save_encoder
from trainer.models.settings import Lora
from trainer.models.sparse import SparseSettings, build_sparse_encoder
from trainer.models.towers.query_weights import QueryWeights

TABLE = "query_0_SparseStaticEmbedding"


def new_encoder(folder, **settings):
    """A model with a table of different weights, some of them below zero."""
    settings = {"query_table": "trained", "lora": None, **settings}
    encoder = build_sparse_encoder(SparseSettings(backbone=str(folder), **settings)).eval()
    with torch.no_grad():
        encoder.query_table.weight *= torch.linspace(2.0, -0.5, encoder.dimensions)
    return encoder


@pytest.fixture(scope="module")
def backbone(toy_folder):
    return masked_lm(toy_folder("bert"))


@pytest.fixture(scope="module")
def encoder(backbone):
    return new_encoder(backbone, query_prompt="show ", query_max_length_tokens=9)


@pytest.fixture(scope="module")
def stored(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "model"
    save_encoder(encoder, folder)
    return folder


@torch.no_grad()
def vectors_of(encoder, role="query", texts=SENTENCES):
    return encoder(encoder.tokenize(texts, role))


def test_query_has_the_weights_of_its_distinct_words(encoder):
    texts, weights = encoder.tokenize(SENTENCES, "query"), encoder.query_table.weight.detach()
    assert (weights < 0).any()
    expected = torch.zeros(len(texts), encoder.dimensions)
    for row, part in enumerate(texts.tokens.split(texts.lengths.tolist())):
        for token in set(part.tolist()):
            expected[row, token] = max(0.0, float(weights[token]))
    assert torch.equal(vectors_of(encoder), expected)
    assert set(texts.tokens.tolist()) & set(encoder.tokenizer.all_special_ids)
    assert (expected[:, encoder.tokenizer.all_special_ids] == 0).all()
    assert torch.equal(*vectors_of(encoder, texts=["a disk", "a disk a disk"]))


def test_documents_are_encoded_by_the_model(encoder, backbone):
    plain = build_sparse_encoder(SparseSettings(backbone=str(backbone), lora=None)).eval()
    torch.testing.assert_close(vectors_of(encoder, "document"), vectors_of(plain, "document"))
    assert not torch.allclose(vectors_of(encoder), vectors_of(plain))


def test_weights_of_words_learn_and_zeros_stay(encoder):
    table = encoder.query_table
    texts = encoder.tokenize(SENTENCES, "query")
    encoder(texts).sum().backward()
    is_learning = table.weight.grad != 0
    table.weight.grad = None
    words = torch.zeros(encoder.dimensions, dtype=torch.bool)
    words[texts.tokens] = True
    assert torch.equal(is_learning, words & (table.weight > 0))


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_stored_table_gives_the_same_vectors(backbone, tmp_path, monkeypatch, lora):
    encoder = new_encoder(backbone, lora=lora, query_max_length_tokens=9)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_encoder(encoder, tmp_path / "model")
    check_model_folder(tmp_path / "model", replace=True)
    assert "knows only the longer one" not in (tmp_path / "model" / "README.md").read_text()
    monkeypatch.setattr(loading, "locate_public", lambda name: backbone)
    for place in ("model", *(["model/adapter"] if lora else [])):
        again = read_model(str(tmp_path / place))
        assert again.contract == encoder.contract
        for role in ("query", "document"):
            torch.testing.assert_close(
                vectors_of(again, role), vectors_of(encoder, role), atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("query_table", ["frozen", None])
def test_training_goes_on_with_the_table_of_the_folder(encoder, stored, query_table):
    settings = SparseSettings(backbone=str(stored), query_table=query_table)
    again = build_sparse_encoder(settings)
    assert torch.equal(vectors_of(again), vectors_of(encoder))
    assert not again.query_table.is_new
    assert again.query_table.weight.requires_grad is (query_table is None)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.ones(3)}, r"holds \{'weight': \(3,\)\}, but a weight for each of the 89"),
        ({"other": torch.ones(89)}, r"holds \{'other': \(89,\)\}"),
        ({"weight": -torch.ones(89)}, "89 words have a weight below zero"),
    ],
)
def test_weights_that_do_not_fit_are_refused(encoder, tmp_path, tensors, message):
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BadModel, match=message):
        QueryWeights.read(tmp_path, encoder.dimensions, encoder.tokenizer)


def test_missing_weights_and_other_tokenizer_are_refused(encoder, stored, tmp_path):
    shutil.copytree(stored, tmp_path / "model")
    place = tmp_path / "model" / TABLE
    tokenizer = json.loads((place / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (place / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadModel, match="has another tokenizer than the documents"):
        read_model(str(tmp_path / "model"))
    (place / "model.safetensors").unlink()
    with pytest.raises(BadModel, match=r"holds no model\.safetensors"):
        read_model(str(tmp_path / "model"))
