"""Late-interaction folders go both ways between nearfar and the multi-vector encoder of a real
sentence-transformers, to 1e-5.
"""

import json
import string
from typing import Any

import numpy as np
import pytest
import torch
from late_interaction_toys import (
    DOCUMENT_LENGTH,
    QUERY_LENGTH,
    TEXTS,
    Vectors,
    assert_same_vectors,
    maxsim_scores,
    new_encoder,
    scored_vectors,
    train_one_step,
)
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from trainer.errors import BadModel
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import LateInteractionEncoder, read_late_encoder
from trainer.models.settings import Lora

FAMILIES = ("roberta", "xlm-roberta", "mpnet", "distilbert", "qwen3", "llama")
HOW: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "expansion attended": {"attend_to_expansion": True},
    "no expansion": {"query_expansion": False},
    "punctuation scored": {"skip_punctuation": False},
    "no markers": {"query_marker": "", "document_marker": ""},
    "other markers": {"query_marker": "[unused1]", "document_marker": "[MASK]"},
    "prompts": {"query_prompt": "show ", "document_prompt": "list: "},
}
EXPANSION = {"strategy": "fixed", "attend": False, "length": QUERY_LENGTH}
THEIRS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "expansion attended": {"query_expansion": EXPANSION | {"attend": True}},
    "no expansion": {"query_expansion": None, "query_length": 9},
    "no lengths": {"query_expansion": None, "document_length": None},
    "punctuation scored": {"skipped": []},
    "words skipped": {"skipped": ["disk", ".", "delete", "no word"]},
    "text before": {"prompts": {"query": "show ", "document": "list: "}},
    "nothing before": {"prompts": {"query": "", "document": ""}},
    "with a bias": {"bias": True},
}
"""What differs in the pipeline of `theirs_of`."""


def theirs_of(
    backbone: str,
    skipped: list[str] | None = None,
    bias: bool = False,
    prompts: dict[str, str] | None = None,
    tasks: list[str] | None = None,
    normalize: bool = True,
    **lengths: Any,
) -> MultiVectorEncoder:
    torch.manual_seed(2)
    dense = Dense(
        32,
        16,
        bias=bias,
        activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings",
    )
    modules = [
        Transformer(
            backbone,
            **{"document_length": DOCUMENT_LENGTH, "query_expansion": EXPANSION, **lengths},
        ),
        dense,
        MultiVectorMask(
            list(string.punctuation) if skipped is None else skipped, skiplist_tasks=tasks
        ),
        *([Normalize(module_input_name="token_embeddings")] if normalize else []),
    ]
    prompts = {"query": "[unused0] ", "document": "[unused1] "} if prompts is None else prompts
    return MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts)


def of(theirs: MultiVectorEncoder, role: str) -> Vectors:
    encode = theirs.encode_query if role == "query" else theirs.encode_document
    return [one.numpy() for one in encode(list(TEXTS))]


def assert_same(encoder: LateInteractionEncoder, theirs: MultiVectorEncoder) -> None:
    for role in ("query", "document"):
        assert_same_vectors(scored_vectors(encoder, TEXTS, role), of(theirs, role))
    scores = theirs.similarity(
        theirs.encode_query(list(TEXTS)), theirs.encode_document(list(TEXTS))
    ).numpy()
    some = (
        scores > -1e9
    )  # a document without any token has minus infinity in ours, a large negative number in theirs
    ours = maxsim_scores(encoder, TEXTS, TEXTS)
    np.testing.assert_allclose(ours[some], scores[some], atol=1e-4, rtol=1e-5)
    assert np.isneginf(ours[~some]).all()


@pytest.mark.parametrize("how", HOW)
def test_sentence_transformers_reads_our_folders(marked_bert, tmp_path, how):
    encoder = train_one_step(new_encoder(marked_bert, **HOW[how]))
    save_encoder(encoder, tmp_path / "model")
    assert_same(encoder, MultiVectorEncoder(str(tmp_path / "model"), device="cpu"))


@pytest.mark.parametrize("family", FAMILIES)
def test_sentence_transformers_reads_every_backbone_family_that_we_write(
    toy_folder, tmp_path, family
):
    encoder = train_one_step(new_encoder(toy_folder(family), lora=None))
    save_encoder(encoder, tmp_path / "model")
    assert_same(encoder, MultiVectorEncoder(str(tmp_path / "model"), device="cpu"))


@pytest.mark.parametrize("how", THEIRS)
def test_we_read_folders_of_sentence_transformers(marked_bert, tmp_path, how):
    theirs = theirs_of(str(marked_bert), **THEIRS[how])
    theirs.save_pretrained(str(tmp_path / "theirs"))
    encoder = read_late_encoder(str(tmp_path / "theirs"))
    assert_same(encoder, theirs)
    save_encoder(encoder, tmp_path / "ours")
    assert_same(encoder, MultiVectorEncoder(str(tmp_path / "ours"), device="cpu"))


def test_planted_difference_is_caught(marked_bert):
    """Each setting changes vectors or their number, so that the tests above would fail if a reader
    left it out.
    """
    plain = theirs_of(str(marked_bert))
    for how, change in THEIRS.items():
        other = theirs_of(str(marked_bert), **change)
        pairs = [
            pair
            for role in ("query", "document")
            for pair in zip(of(plain, role), of(other, role), strict=True)
        ]
        equal = all(
            one.shape == another.shape and np.abs(one - another).max(initial=0) < 1e-3
            for one, another in pairs
        )
        assert equal == (how == "as it comes"), how


def test_real_model_and_its_adapter_give_the_same_vectors(tmp_path):
    settings = {
        "projection_dimensions": 128,
        "query_max_length_tokens": 32,
        "document_max_length_tokens": 180,
        "lora": Lora(rank=4),
    }
    encoder = new_encoder("sentence-transformers/all-MiniLM-L6-v2", **settings)
    untrained = scored_vectors(encoder, TEXTS, "query")
    save_encoder(train_one_step(encoder), tmp_path / "model")
    theirs = MultiVectorEncoder(str(tmp_path / "model"), device="cpu")
    assert_same(encoder, theirs)
    assert_same(read_late_encoder(str(tmp_path / "model" / "adapter")), theirs)
    assert np.abs(untrained[0] - of(theirs, "query")[0]).max() > 1e-3


def test_training_continues_from_a_model_of_sentence_transformers(marked_bert, tmp_path):
    theirs = theirs_of(str(marked_bert))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    started = new_encoder(
        tmp_path / "theirs",
        projection_dimensions=None,
        query_max_length_tokens=None,
        document_max_length_tokens=None,
    )
    assert_same(started, theirs)


@pytest.mark.parametrize(
    "change",
    [
        {"query_expansion": EXPANSION | {"strategy": "min"}},
        {"query_expansion": EXPANSION | {"token": "[PAD]"}},
        {"tasks": ["query", "document"]},
        {"normalize": False},
    ],
)
def test_pipeline_with_unknown_modules_is_refused(marked_bert, tmp_path, change):
    theirs_of(str(marked_bert), **change).save_pretrained(str(tmp_path / "theirs"))
    with pytest.raises(BadModel, match="not read|only a model that normalises vectors"):
        read_late_encoder(str(tmp_path / "theirs"))


def test_old_and_new_versions_read_our_folders(marked_bert, tmp_path):
    """PyLate and sentence-transformers before 6 fail on keys and modules that they do not know."""
    save_encoder(new_encoder(marked_bert), tmp_path / "model")

    def read(name: str) -> Any:
        return json.loads((tmp_path / "model" / name).read_text())

    assert [(module["path"], module["type"]) for module in read("modules.json")] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Dense", "sentence_transformers.models.Dense"),
    ]
    assert read("1_Dense/config.json").keys() == {
        "in_features",
        "out_features",
        "bias",
        "activation_function",
    }
    settings = read("config_sentence_transformers.json")
    assert settings["model_type"] == "ColBERT"
    assert (settings["query_prefix"], settings["document_prefix"]) == ("[unused0]", "[unused1]")
    assert (settings["query_length"], settings["document_length"]) == (
        QUERY_LENGTH,
        DOCUMENT_LENGTH,
    )
    assert settings["skiplist_words"] == list(string.punctuation)
    assert settings["do_query_expansion"]
    assert not settings["attend_to_expansion_tokens"]
