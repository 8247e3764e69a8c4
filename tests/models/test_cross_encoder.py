"""Cross-encoders: pairs cut as the tokenizer itself cuts them, heads fresh or read, and folders of
another kind refused by name.
"""

import json
import shutil

import pytest
import torch
from toy_models import SENTENCES
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from trainer.errors import BadModel
from trainer.models.cross_encoder import (
    CrossEncoderSettings,
    build_cross_encoder,
    read_cross_encoder,
)
from trainer.models.dense import read_encoder
from trainer.models.families import read_any, read_model
from trainer.models.formats.folder import save_encoder
from trainer.models.parts.lora import check_adapter_learned
from trainer.models.settings import Lora

QUERIES = (
    "disk gone",
    "a storage account " * 9,
    "x",
    "",
    "naïve поиск",
    "what is [SEP] here",
    "every disk " * 4,
)
DOCUMENTS = (
    SENTENCES[2] * 4,
    SENTENCES[0],
    "",
    "y",
    SENTENCES[1],
    SENTENCES[0],
    "list all machines " * 30,
)
"""Longer than a pair may be on either side, on both, empty, with a special token's name inside."""


@pytest.fixture
def bert_with_types(toy_folder, tmp_path):
    """A BERT whose tokenizer says which part of a pair a token is of, as that of a real one
    does.
    """
    folder = tmp_path / "typed"
    shutil.copytree(toy_folder("bert"), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def made(folder, **more):
    torch.manual_seed(7)
    return build_cross_encoder(CrossEncoderSettings(backbone=str(folder), **more))


def trained(encoder):
    optimizer = torch.optim.AdamW(
        [parameter for parameter in encoder.parameters() if parameter.requires_grad], lr=0.02
    )
    for _ in range(2):
        optimizer.zero_grad()
        encoder(encoder.tokenize_pairs(QUERIES, DOCUMENTS)).pow(2).sum().backward()
        optimizer.step()
    return encoder


@torch.no_grad()
def scores(encoder, queries=QUERIES, documents=DOCUMENTS):
    return encoder.eval()(encoder.tokenize_pairs(queries, documents))


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "modernbert", "distilbert", "qwen2", "llama"]
)
@pytest.mark.parametrize("lora", [None, Lora()], ids=["full", "lora"])
def test_scores_are_not_rounded_under_autocast(toy_folder, family, lora):
    encoder = made(toy_folder(family), lora=lora)
    with torch.autocast("cpu", torch.bfloat16):
        found = scores(encoder)
    assert found.dtype == torch.float32
    assert (found != found.bfloat16().float()).sum() >= len(found) - 1
    torch.testing.assert_close(found, scores(encoder), rtol=0.05, atol=0.05)
    assert len(found.unique()) == len(found)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "qwen2", "llama"])
@pytest.mark.parametrize("length", [12, 13, 40, 64])
def test_pairs_equal_those_of_the_tokenizer(toy_folder, family, length):
    encoder = made(toy_folder(family), document_max_length_tokens=length)
    texts = encoder.tokenize_pairs(QUERIES, DOCUMENTS)
    wanted = encoder.tokenizer(
        list(QUERIES), list(DOCUMENTS), truncation="longest_first", max_length=length
    )["input_ids"]
    found = [ids.tolist() for ids in texts.tokens.split(texts.lengths.tolist())]
    assert found == [ids or [encoder.tokenizer.eos_token_id] for ids in wanted]
    assert max(map(len, found)) == length


def test_second_text_has_its_own_token_type(bert_with_types):
    encoder = made(bert_with_types, document_max_length_tokens=40)
    wanted = encoder.tokenizer(
        list(QUERIES),
        list(DOCUMENTS),
        truncation=True,
        max_length=40,
        padding=True,
        return_tensors="pt",
    )
    texts = encoder.tokenize_pairs(QUERIES, DOCUMENTS)
    place = torch.arange(wanted["input_ids"].shape[1])
    assert (
        ((place >= texts.second[:, None]) & wanted["attention_mask"].bool())
        .long()
        .equal(wanted["token_type_ids"])
    )
    with torch.no_grad():
        plain = encoder.eval().backbone(**wanted).logits.squeeze(-1)
        untyped = encoder.backbone(
            **{**wanted, "token_type_ids": torch.zeros_like(wanted["token_type_ids"])}
        ).logits.squeeze(-1)
    torch.testing.assert_close(scores(encoder), plain, atol=1e-5, rtol=0)
    assert (plain - untyped).abs().max() > 1e-2, "types matter"
    some = texts.select(torch.tensor([4, 1]))
    assert some.second.tolist() == texts.second[[4, 1]].tolist()


def test_queries_are_truncated_first_if_so_set(toy_folder):
    encoder = made(toy_folder("bert"), query_max_length_tokens=5, document_max_length_tokens=40)
    (query,) = encoder.tokenizer([QUERIES[1]], add_special_tokens=False)["input_ids"]
    ids = encoder.tokenize_pairs([QUERIES[1]], ["y"]).tokens.tolist()
    assert ids[1:7] == [*query[:5], 3]


def test_pairs_do_not_attend_to_each_other(toy_folder):
    encoder = made(toy_folder("bert"))
    together = scores(encoder)
    alone = torch.cat(
        [
            scores(encoder, [query], [document])
            for query, document in zip(QUERIES, DOCUMENTS, strict=True)
        ]
    )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.std() > 1e-2


def test_new_head_is_drawn_from_the_seed(toy_folder):
    one, two = (made(toy_folder("bert")) for _ in range(2))
    assert one.is_untrained
    torch.testing.assert_close(scores(one), scores(two), atol=0, rtol=0)
    torch.manual_seed(8)
    assert (
        scores(build_cross_encoder(CrossEncoderSettings(backbone=str(toy_folder("bert")))))
        - scores(one)
    ).abs().max() > 1e-3


@pytest.mark.parametrize(
    "lora",
    [None, Lora(rank=4), Lora(rank=4, dora=True)],
    ids=["full", "lora", "dora"],
)
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_saved_and_loaded_model_gives_the_same_scores(toy_folder, tmp_path, family, lora):
    encoder = trained(
        made(
            toy_folder(family),
            lora=lora,
            query_prompt="ask: ",
            query_max_length_tokens=20,
            document_max_length_tokens=30,
        )
    )
    before, untrained = scores(encoder), scores(made(toy_folder(family)))
    check_adapter_learned(encoder)
    assert (before - untrained).abs().max() > 1e-2
    save_encoder(encoder, tmp_path / "model")
    again = read_any(str(tmp_path / "model"))
    assert again.contract == encoder.contract
    assert not again.is_untrained
    torch.testing.assert_close(scores(again), before, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores(encoder), before, atol=0, rtol=0)
    go_on = build_cross_encoder(CrossEncoderSettings(backbone=str(tmp_path / "model")))
    torch.testing.assert_close(scores(go_on), before, atol=1e-5, rtol=0)


def test_head_is_trained_fully_and_saved_beside_the_adapter(toy_folder, tmp_path, monkeypatch):
    encoder = made(toy_folder("bert"))
    heads = {
        name
        for name, parameter in encoder.named_parameters()
        if parameter.requires_grad and "lora_" not in name
    }
    assert {name.removeprefix("backbone.base_model.model.") for name in heads} == {
        "classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"
    }  # fmt: skip
    assert all(encoder.is_head(name) for name in heads)
    assert not any(
        encoder.is_head(name) for name, _ in encoder.named_parameters() if name not in heads
    )
    before = scores(trained(encoder))
    save_encoder(encoder, tmp_path / "model")
    adapter = tmp_path / "model" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"] == [
        "classifier",
        "bert.pooler",
    ]
    monkeypatch.setattr("trainer.models.loading.locate_public", lambda name: toy_folder("bert"))
    torch.testing.assert_close(scores(read_cross_encoder(str(adapter))), before, atol=1e-5, rtol=0)


class TestRefused:
    def test_bi_encoder_is_refused_for_pairs(self, toy_folder):
        with pytest.raises(BadModel, match="no cross-encoder: it gives vectors"):
            read_cross_encoder(str(toy_folder("bert")))

    @pytest.mark.parametrize("read", [read_model, read_encoder])
    def test_cross_encoder_is_refused_for_vectors(self, toy_folder, tmp_path, read):
        save_encoder(made(toy_folder("bert")), tmp_path / "model")
        with pytest.raises(BadModel, match="is a cross-encoder.* --rerank"):
            read(str(tmp_path / "model"))

    def test_foreign_cross_encoder_is_refused_for_vectors(self, toy_folder, tmp_path):
        config = AutoConfig.from_pretrained(toy_folder("bert"), num_labels=1)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
        with pytest.raises(BadModel, match="is a cross-encoder"):
            read_model(str(tmp_path))

    def test_classifier_of_several_labels_is_refused(self, toy_folder, tmp_path):
        config = AutoConfig.from_pretrained(toy_folder("bert"), num_labels=3)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(toy_folder("bert")).save_pretrained(tmp_path)
        with pytest.raises(BadModel, match="3 numbers per pair"):
            read_cross_encoder(str(tmp_path))

    def test_cross_encoder_without_its_head_is_refused(self, toy_folder, tmp_path):
        save_encoder(made(toy_folder("bert")), tmp_path / "model")
        shutil.copy(
            toy_folder("bert") / "model.safetensors", tmp_path / "model" / "model.safetensors"
        )
        with pytest.raises(BadModel, match="classifier.*missing|missing.*classifier"):
            read_cross_encoder(str(tmp_path / "model"))

    def test_length_without_space_for_both_texts_is_refused(self, toy_folder):
        with pytest.raises(BadModel, match="leave no room"):
            made(toy_folder("bert"), document_max_length_tokens=3)

    def test_four_bit_weights_are_refused(self, toy_folder):
        with pytest.raises(BadModel, match="quantize_4bit"):
            made(toy_folder("bert"), lora=Lora(quantize_4bit=True))
