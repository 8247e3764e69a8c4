"""Folders go both ways between nearfar and a real sentence-transformers, with the same vectors to
1e-5.
"""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from toy_models import FAMILIES, SENTENCES

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.formats.folder import save_encoder

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = [*SENTENCES, "Delete " * 80, ""]
POOLINGS = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last_token",
    "weightedmean": "weighted_mean",
}


@torch.no_grad()
def ours(encoder, role, texts=TEXTS):
    return encoder.eval()(encoder.tokenize(texts, role)).numpy()


def assert_same(encoder, theirs, texts=TEXTS):
    difference = max(
        np.abs(ours(encoder, "query", texts) - theirs.encode_query(texts)).max(),
        np.abs(ours(encoder, "document", texts) - theirs.encode_document(texts)).max(),
    )
    assert difference < 1e-5


def train_a_little(encoder):
    optimizer = torch.optim.AdamW(
        [parameter for parameter in encoder.parameters() if parameter.requires_grad], lr=0.02
    )
    encoder(encoder.tokenize(SENTENCES, "document"))[:, :5].sum().backward()
    optimizer.step()
    return encoder


@pytest.mark.parametrize("family", FAMILIES)
def test_sentence_transformers_reads_our_folders(toy_folder, tmp_path, family):
    model = DenseSettings(
        backbone=str(toy_folder(family)), query_prompt="query: ", document_prompt="text: "
    )
    encoder = train_a_little(build_dense_encoder(model))
    save_encoder(encoder, tmp_path / "model")
    assert_same(encoder, SentenceTransformer(str(tmp_path / "model"), device="cpu"))


@pytest.mark.parametrize("projection", [None, 12])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS.values())
def test_sentence_transformers_reads_every_pipeline_that_we_write(
    toy_folder, tmp_path, pooling, normalize, projection
):
    model = DenseSettings(
        backbone=str(toy_folder("roberta")),
        pooling=pooling,
        normalize=normalize,
        projection_dimensions=projection,
        lora=None,
    )
    encoder = train_a_little(build_dense_encoder(model))
    save_encoder(encoder, tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert_same(encoder, theirs)
    assert theirs.get_embedding_dimension() == encoder.dimensions == (projection or 32)
    assert theirs.similarity_fn_name == ("cosine" if normalize else "dot")
    assert np.allclose(np.linalg.norm(ours(encoder, "query"), axis=1), 1, atol=1e-5) == normalize


def pipeline(folder, pooling="mean", include_prompt=True, dense=None, normalize=True, **more):
    transformer = Transformer(str(folder))
    transformer.tokenizer.pad_token = (
        transformer.tokenizer.pad_token or transformer.tokenizer.eos_token
    )
    modules = [transformer, Pooling(32, pooling, include_prompt=include_prompt)]
    modules += [dense] if dense is not None else []
    modules += [Normalize()] if normalize else []
    return SentenceTransformer(modules=modules, device="cpu", **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_we_read_folders_of_sentence_transformers(toy_folder, tmp_path, family):
    theirs = pipeline(
        toy_folder(family), pooling="lasttoken", prompts={"query": "query: ", "document": "text: "}
    )
    theirs.save(str(tmp_path / "model"))
    # A text without any token makes a model without special tokens fail in theirs; ours gives a
    # vector.
    texts = [text for text in TEXTS if text]
    assert_same(read_encoder(str(tmp_path / "model")), theirs, texts)
    assert np.isfinite(ours(read_encoder(str(tmp_path / "model")), "document")).all()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dense", [None, "Identity", "Tanh without bias"])
def test_we_read_every_pipeline_of_sentence_transformers(
    toy_folder, tmp_path, pooling, normalize, dense
):
    activation = torch.nn.Identity() if dense == "Identity" else torch.nn.Tanh()
    layer = (
        Dense(32, 12, bias=dense == "Identity", activation_function=activation) if dense else None
    )
    theirs = pipeline(
        toy_folder("bert"), pooling, dense=layer, normalize=normalize, similarity_fn_name="dot"
    )
    theirs.save(str(tmp_path / "model"))
    encoder = read_encoder(str(tmp_path / "model"))
    assert_same(encoder, theirs)
    assert encoder.contract.pooling == POOLINGS[pooling]
    assert encoder.contract.similarity == ("cosine" if normalize else "dot")


@pytest.mark.parametrize("family", ["bert", "llama", "qwen2"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "weightedmean"])
def test_prompt_that_is_excluded_from_pooling_is_excluded(toy_folder, tmp_path, family, pooling):
    theirs = pipeline(
        toy_folder(family),
        pooling,
        include_prompt=False,
        prompts={"query": "Show every disk: ", "document": ""},
    )
    theirs.save(str(tmp_path / "model"))
    encoder = read_encoder(str(tmp_path / "model"))
    assert_same(encoder, theirs, list(SENTENCES))
    assert not encoder.contract.include_prompt
    with_prompt = encoder.contract.model_copy(update={"include_prompt": True})
    left_out = ours(encoder, "query", list(SENTENCES))
    encoder.contract = with_prompt
    assert np.abs(ours(encoder, "query", list(SENTENCES)) - left_out).max() > 1e-3
    encoder.contract = with_prompt.model_copy(update={"include_prompt": False})
    save_encoder(encoder, tmp_path / "again")
    assert_same(
        encoder, SentenceTransformer(str(tmp_path / "again"), device="cpu"), list(SENTENCES)
    )


def test_default_prompt_precedes_queries_and_documents(toy_folder, tmp_path):
    theirs = pipeline(
        toy_folder("bert"),
        prompts={"query": "", "document": "", "sts": "Show: "},
        default_prompt_name="sts",
    )
    theirs.save(str(tmp_path / "model"))
    settings = tmp_path / "model" / "config_sentence_transformers.json"
    settings.write_text(json.dumps({"prompts": {"sts": "Show: "}, "default_prompt_name": "sts"}))
    encoder = read_encoder(str(tmp_path / "model"))
    assert np.abs(ours(encoder, "query") - theirs.encode(TEXTS)).max() < 1e-5
    assert encoder.contract.document_prompt == "Show: "


def test_real_model_gives_the_same_vectors():
    from trainer.models.files.packaged import packaged_folder

    folder = packaged_folder(MINILM)
    assert folder is not None, "the quickstart's model is not installed: make setup"
    texts = [
        *SENTENCES,
        "How do I create an inbound NAT address pool?",
        "word " * 400,
        "日本語 emoji 🎉",
        "",
    ]
    encoder, theirs = read_encoder(MINILM), SentenceTransformer(str(folder), device="cpu")
    assert_same(encoder, theirs, texts)
    assert encoder.contract.query_max_length_tokens == 256


def test_old_versions_of_sentence_transformers_read_our_folders(toy_folder, tmp_path):
    """sentence-transformers before 5.4, text-embeddings-inference and vLLM read these keys, and the
    first fails on keys it does not know.
    """
    save_encoder(
        build_dense_encoder(
            DenseSettings(backbone=str(toy_folder("bert")), projection_dimensions=8)
        ),
        tmp_path / "model",
    )

    def read(name):
        return json.loads((tmp_path / "model" / name).read_text())

    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    assert [module["type"] for module in read("modules.json")] == [
        f"sentence_transformers.models.{kind}" for kind in kinds
    ]
    assert [module["path"] for module in read("modules.json")] == [
        "",
        "1_Pooling",
        "2_Dense",
        "3_Normalize",
    ]
    assert read("sentence_bert_config.json") == {"max_seq_length": 64, "do_lower_case": False}
    pooling = read("1_Pooling/config.json")
    assert {key for key, value in pooling.items() if value is True} == {
        "pooling_mode_mean_tokens",
        "include_prompt",
    }
    classic = {
        "cls_token",
        "max_tokens",
        "mean_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    }
    assert pooling.keys() == {"word_embedding_dimension", "pooling_mode", "include_prompt"} | {
        f"pooling_mode_{mode}" for mode in classic
    }
    assert set(read("2_Dense/config.json")) == {
        "in_features",
        "out_features",
        "bias",
        "activation_function",
    }


def test_lower_casing_set_in_the_folder_is_applied(toy_folder, tmp_path):
    theirs = pipeline(toy_folder("roberta"))
    theirs.save(str(tmp_path / "model"))
    (tmp_path / "model" / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 30, "do_lower_case": True})
    )
    encoder, theirs = (
        read_encoder(str(tmp_path / "model")),
        SentenceTransformer(str(tmp_path / "model"), device="cpu"),
    )
    assert_same(encoder, theirs)
    save_encoder(encoder, tmp_path / "again")
    assert_same(encoder, SentenceTransformer(str(tmp_path / "again"), device="cpu"))
    assert np.abs(ours(encoder, "query", ["DISK"]) - ours(encoder, "query", ["disk"])).max() < 1e-6


def test_pipeline_with_unknown_modules_is_refused_by_name(toy_folder, tmp_path):
    pipeline(toy_folder("bert"), pooling=("mean", "cls")).save(str(tmp_path / "two poolings"))
    with pytest.raises(
        BadModel, match=r"pooling mean\+cls is not one of mean, cls, lasttoken, weightedmean"
    ):
        read_encoder(str(tmp_path / "two poolings"))
    for mode in (3, {"mean": True}):
        (tmp_path / "two poolings/1_Pooling/config.json").write_text(
            json.dumps({"pooling_mode": mode})
        )
        with pytest.raises(BadModel, match="is not one of mean, cls"):
            read_encoder(str(tmp_path / "two poolings"))
    pipeline(toy_folder("bert"), dense=Dense(32, 8, activation_function=torch.nn.ReLU())).save(
        str(tmp_path / "relu")
    )
    with pytest.raises(BadModel, match="only a linear layer with Identity or Tanh"):
        read_encoder(str(tmp_path / "relu"))


@pytest.mark.parametrize(
    ("similarity", "normalized"), [("cosine", True), ("dot", False), (None, True)]
)
def test_cosine_model_is_trained_normalised_and_read_unchanged(
    toy_folder, tmp_path, similarity, normalized
):
    theirs = pipeline(toy_folder("bert"), normalize=False, similarity_fn_name=similarity)
    theirs.save(str(tmp_path / "model"))
    used, trained = (
        read_encoder(str(tmp_path / "model")),
        build_dense_encoder(DenseSettings(backbone=str(tmp_path / "model"))),
    )
    assert_same(used, theirs)
    assert used.contract.similarity == (similarity or "cosine")
    assert not used.contract.normalize
    assert trained.contract.normalize == normalized
    scores = torch.from_numpy(ours(trained, "query") @ ours(trained, "document").T)
    torch.testing.assert_close(
        scores,
        theirs.similarity(theirs.encode_query(TEXTS), theirs.encode_document(TEXTS)),
        atol=1e-4,
        rtol=1e-5,
    )
