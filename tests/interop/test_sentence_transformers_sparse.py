"""Sparse models go both ways between nearfar and the `SparseEncoder` of a real
sentence-transformers, to 1e-4 of weights up to 3.
"""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder as Theirs
from sentence_transformers.sparse_encoder.modules import (
    Router,
    SparseStaticEmbedding,
    SpladePooling,
    Transformer,
)
from toy_models import SENTENCES, masked_lm

from trainer.errors import BadModel
from trainer.models.families import read_model
from trainer.models.formats.folder import save_encoder
from trainer.models.settings import Lora
from trainer.models.sparse import SparseEncoder, SparseSettings, build_sparse_encoder
from trainer.retrieval.encoding.encode import encode_documents, encode_queries

PROMPTS = {"query": "show ", "document": "list: "}


@pytest.fixture
def folder(toy_folder):
    return masked_lm(toy_folder("bert"))


def assert_same_vectors(ours, theirs):
    for encode, encode_theirs in (
        (encode_queries, theirs.encode_query),
        (encode_documents, theirs.encode_document),
    ):
        expected = encode_theirs(list(SENTENCES)).to_dense().numpy()
        assert (expected > 0).any(1).all()
        np.testing.assert_allclose(
            encode(ours, SENTENCES).to_padded(), expected, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_our_folder_is_read_by_them(folder, tmp_path, lora):
    ours = build_sparse_encoder(
        SparseSettings(
            backbone=str(folder), lora=lora, query_prompt="show ", document_prompt="list: "
        )
    )
    for name, parameter in ours.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_encoder(ours, tmp_path / "model")
    theirs = Theirs(str(tmp_path / "model"))
    assert theirs.prompts == PROMPTS
    assert theirs.similarity_fn_name == "dot"
    assert_same_vectors(ours, theirs)


def test_their_folder_is_read_by_us(folder, tmp_path):
    theirs = Theirs(str(folder), prompts=PROMPTS)
    theirs.max_seq_length = 12
    theirs.save(str(tmp_path / "model"))
    ours = read_model(str(tmp_path / "model"))
    assert isinstance(ours, SparseEncoder)
    assert_same_vectors(ours, theirs)
    trained = build_sparse_encoder(SparseSettings(backbone=str(tmp_path / "model")))
    assert trained.contract.query_prompt == "show "


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_our_table_of_queries_is_read_by_them(folder, tmp_path, lora):
    ours = build_sparse_encoder(
        SparseSettings(
            backbone=str(folder),
            lora=lora,
            query_table="trained",
            query_prompt="show ",
            query_max_length_tokens=8,
            document_max_length_tokens=20,
        )
    )
    ours.query_table.weight.data *= torch.linspace(2.0, -0.2, ours.dimensions)
    for name, parameter in ours.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_encoder(ours, tmp_path / "model")
    assert max(ours.tokenize(SENTENCES, "query").lengths) == 8, "some queries are cut"
    assert_same_vectors(ours, Theirs(str(tmp_path / "model")))


def routed(folder):
    """A model of theirs with a table in which special tokens count, too."""
    transformer = Transformer(str(folder), transformer_task="fill-mask", max_seq_length=20)
    table = SparseStaticEmbedding(
        transformer.tokenizer, torch.linspace(0.1, 3.0, len(transformer.tokenizer))
    )
    router = Router.for_query_document([table], [transformer, SpladePooling("max")])
    return Theirs(modules=[router], prompts=PROMPTS, similarity_fn_name="dot")


def test_their_table_of_queries_is_read_by_us(folder, tmp_path):
    theirs = routed(folder)
    theirs[0].sub_modules["query"][0].tokenizer.model_max_length = 9
    theirs.save(str(tmp_path / "model"))
    ours = read_model(str(tmp_path / "model"))
    assert ours.contract.has_query_table
    assert_same_vectors(ours, Theirs(str(tmp_path / "model")))


@pytest.mark.parametrize(
    "change",
    [
        lambda router: router["structure"]["document"].pop(),
        lambda router: router["structure"].update(other=[]),
        lambda router: router["structure"].update(query=[["a"]]),
        lambda router: router["parameters"].update(route_mappings={"('query', None)": "document"}),
        lambda router: router.update(parameters=["a"]),
    ],
    ids=["without pooling", "third route", "nested list", "route mapping", "list of parameters"],
)
def test_other_router_is_refused(folder, tmp_path, change):
    routed(folder).save(str(tmp_path / "model"))
    path = tmp_path / "model" / "router_config.json"
    router = json.loads(path.read_text())
    change(router)
    path.write_text(json.dumps(router))
    with pytest.raises(BadModel, match=r"modules\.json: Router; .* a Router with these"):
        build_sparse_encoder(SparseSettings(backbone=str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("key", "value"), [("pooling_strategy", "sum"), ("activation_function", "log1p_relu")]
)
def test_other_pooling_is_refused(folder, tmp_path, key, value):
    Theirs(str(folder)).save(str(tmp_path / "model"))
    path = tmp_path / "model" / "1_SpladePooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(BadModel, match=f"its {key} is '{value}'"):
        read_model(str(tmp_path / "model"))
