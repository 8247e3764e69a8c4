"""Tokenising: prompts, truncation, blank and very long texts, threads."""

import threading
import tracemalloc

import pytest
import torch
from toy_models import DECODERS, FAMILIES, SENTENCES
from transformers import AutoTokenizer

from trainer.batch import identity
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.tokenizers import texts as tokenization


def lists(texts):
    return [
        texts.tokens[start:stop].tolist()
        for start, stop in zip(texts.offsets[:-1].tolist(), texts.offsets[1:].tolist(), strict=True)
    ]


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in DECODERS])
def test_ids_equal_those_of_the_tokenizer_with_prompt_and_truncation(toy_folder, family):
    model = DenseSettings(
        backbone=str(toy_folder(family)),
        query_prompt="Show: ",
        query_max_length_tokens=12,
        document_max_length_tokens=20,
    )
    encoder, plain = build_dense_encoder(model), AutoTokenizer.from_pretrained(toy_folder(family))
    texts = [*SENTENCES, "", "  \n", "disk " * 100]
    queries, documents = encoder.tokenize(texts, "query"), encoder.tokenize(texts, "document")
    assert (
        lists(queries)
        == plain(["Show: " + text for text in texts], truncation=True, max_length=12)["input_ids"]
    )
    assert lists(documents) == plain(texts, truncation=True, max_length=20)["input_ids"]
    assert (
        queries.identities.tolist()
        == documents.identities.tolist()
        == [identity(text) for text in texts]
    )
    assert queries.prompt_tokens == len(plain("Show: ", add_special_tokens=False)["input_ids"])
    assert documents.prompt_tokens == 0
    assert queries.pad_token_id == plain.pad_token_id


@pytest.mark.parametrize("family", FAMILIES)
def test_blank_texts_are_never_empty_and_give_finite_vectors(toy_folder, family):
    for encoder in (
        build_dense_encoder(DenseSettings(backbone=str(toy_folder(family)), pooling="mean")),
        read_encoder(str(toy_folder(family))),
    ):
        texts = encoder.tokenize(["", " ", "\n\t", "\u200b", "disk"], "query")
        assert texts.lengths.min() >= 1
        vectors = encoder(texts)
        assert vectors.isfinite().all()
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))


def test_no_texts_give_no_texts(toy_folder):
    assert len(read_encoder(str(toy_folder("bert"))).tokenize([], "query")) == 0


def test_half_of_a_surrogate_pair_is_replaced(toy_folder):
    encoder = read_encoder(str(toy_folder("roberta")))
    assert lists(encoder.tokenize(["disk \ud800", "list"], "query")) == lists(
        encoder.tokenize(["disk ?", "list"], "query")
    )


LONG = {
    "words": "delete the disk and list " * 4000,
    "spaces": "delete" + " " * 60_000 + "disk" + " " * 60_000 + "list",
    "one word, then words": "x" * 30_000 + " delete the disk and list" * 100,
    "no spaces": "検索поиск" * 12_000,
    "few tokens": "a" * 50_000,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "qwen2"])
def test_long_text_is_truncated_to_the_same_tokens(toy_folder, family, name):
    encoder = read_encoder(str(toy_folder(family)))
    whole = tokenization._plain_copy(encoder.tokenizer)
    whole.enable_truncation(encoder.contract.query_max_length_tokens)
    assert lists(encoder.tokenize([LONG[name]], "query")) == [whole.encode(LONG[name]).ids]


def test_characters_after_the_first_million_are_not_read(toy_folder):
    encoder = read_encoder(str(toy_folder("bert")))
    far, near = (
        "delete" + " " * tokenization.MOST_CHARACTERS + "disk",
        "delete" + " " * (tokenization.MOST_CHARACTERS // 2) + "disk",
    )
    assert lists(encoder.tokenize([far, near], "query")) == lists(
        encoder.tokenize(["delete", "delete disk"], "query")
    )


def test_five_million_characters_are_tokenised_in_little_memory(toy_folder):
    encoder = read_encoder(str(toy_folder("bert")))
    texts = ["delete the disk " * 312_500, "a" * 5_000_000, " " * 5_000_000]
    tracemalloc.start()
    found = encoder.tokenize(texts, "document")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.lengths.tolist() == [64, 3, 2]
    assert peak < 100 * 2**20


def test_threads_tokenise_at_the_same_time(toy_folder):
    encoder = build_dense_encoder(
        DenseSettings(
            backbone=str(toy_folder("roberta")),
            query_max_length_tokens=7,
            document_max_length_tokens=30,
            query_prompt="List ",
        )
    )
    texts = [sentence * count for sentence in SENTENCES for count in range(1, 9)]
    expected = {role: lists(encoder.tokenize(texts, role)) for role in ("query", "document")}
    assert expected["query"] != expected["document"]
    wrong = []

    def work(role):
        wrong.extend(
            role for _ in range(20) if lists(encoder.tokenize(texts, role)) != expected[role]
        )

    threads = [threading.Thread(target=work, args=(role,)) for role in ("query", "document") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_fingerprint_differs_between_tokenizers_and_survives_loading(toy_folder):
    prints = {
        family: read_encoder(str(toy_folder(family))).contract.tokenizer_fingerprint
        for family in ("bert", "roberta", "qwen2")
    }
    assert len(set(prints.values())) == 3
    assert read_encoder(str(toy_folder("bert"))).contract.tokenizer_fingerprint == prints["bert"]
