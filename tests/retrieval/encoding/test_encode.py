import threading

import numpy as np
import pytest
import torch
from encoded import encode
from toy_models import SENTENCES

from trainer.errors import BadModel
from trainer.microbatches import micro_batches
from trainer.models.dense import read_encoder
from trainer.retrieval.encoding import encode as encoding
from trainer.retrieval.encoding.encode import mix
from trainer.vectors.dense import DenseVectors

TEXTS = [
    *SENTENCES,
    *(" ".join(["disk storage account query"] * repeats) for repeats in range(1, 12)),
    SENTENCES[0],
    "",
    SENTENCES[2],
]
"""Of many lengths, some of them twice, in no order."""


@pytest.fixture
def encoder(toy_folder):
    return read_encoder(str(toy_folder("bert")))


@pytest.fixture
def seen(encoder):
    """What went through the encoder: texts and tokens of each micro-batch."""
    calls = []
    encoder.register_forward_pre_hook(
        lambda _, given: calls.append((len(given[0]), len(given[0].tokens)))
    )
    return calls


def test_vectors_equal_those_of_single_texts_in_the_same_order(encoder):
    vectors = encode(encoder, TEXTS, "document")
    with torch.no_grad():
        alone = np.concatenate(
            [encoder(encoder.tokenize([text], "document")).numpy() for text in TEXTS]
        )
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, alone, atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.05  # else any order would pass


@pytest.mark.parametrize("texts_at_once", [1, 3, 16])
def test_slices_and_micro_batches_change_no_vectors(encoder, monkeypatch, texts_at_once):
    whole = encode(encoder, TEXTS, "document")
    monkeypatch.setattr(DenseVectors, "TEXTS_PER_BLOCK", texts_at_once)
    np.testing.assert_allclose(
        encode(encoder, TEXTS, "document", micro_batch_tokens=40), whole, atol=1e-6
    )


def test_duplicate_text_is_encoded_once(encoder, seen):
    vectors = encode(encoder, TEXTS, "document")
    assert sum(count for count, _ in seen) == len(set(TEXTS)) < len(TEXTS)
    np.testing.assert_array_equal(vectors[0], vectors[TEXTS.index(SENTENCES[0], 1)])


def test_micro_batches_respect_the_budget(encoder, seen):
    encode(encoder, TEXTS, "document", micro_batch_tokens=64)
    assert len(seen) > 3
    assert all(tokens <= 64 or count == 1 for count, tokens in seen)


def test_only_tokens_go_through_the_linear_layers(encoder):
    """There is no padding but for rounding up to one of few sizes, by at most a sixteenth."""
    rows = []
    encoder.backbone.encoder.layer[0].intermediate.dense.register_forward_pre_hook(
        lambda _, given: rows.append(given[0].numel() // given[0].shape[-1])
    )
    encode(encoder, TEXTS, "document")
    texts = encoder.tokenize(sorted(set(TEXTS)), "document")
    assert len(set(texts.lengths.tolist())) > 4
    assert len(texts.tokens) <= sum(rows) <= 17 / 16 * len(texts.tokens)


def test_tokenizer_runs_in_another_thread(encoder, monkeypatch):
    threads, tokenize = [], encoder.tokenize
    monkeypatch.setattr(
        encoder,
        "tokenize",
        lambda texts, role: threads.append(threading.current_thread()) or tokenize(texts, role),
    )
    monkeypatch.setattr(DenseVectors, "TEXTS_PER_BLOCK", 5)
    encode(encoder, TEXTS, "query")
    assert len(threads) == 4
    assert threading.main_thread() not in threads


def test_error_of_the_tokenizer_is_raised(encoder, monkeypatch):
    def fail(texts, role):
        raise BadModel("no such token")

    monkeypatch.setattr(encoder, "tokenize", fail)
    with pytest.raises(BadModel, match="no such token"):
        encode(encoder, TEXTS, "query")


def test_modes_of_the_modules_are_restored(encoder):
    encoder.train()
    encoder.backbone.embeddings.eval()
    modes = [module.training for module in encoder.modules()]
    encode(encoder, TEXTS, "document")
    assert [module.training for module in encoder.modules()] == modes
    assert any(modes)
    assert not all(modes)


def test_dropout_is_off_during_encoding(encoder):
    encoder.train()
    assert any(
        isinstance(module, torch.nn.Dropout) and module.p > 0 for module in encoder.modules()
    )
    np.testing.assert_array_equal(
        encode(encoder, TEXTS, "document"), encode(encoder, TEXTS, "document")
    )


def test_bf16_vectors_are_close_and_differ(encoder):
    exact, rough = (
        encode(encoder, TEXTS, "document"),
        encode(encoder, TEXTS, "document", precision="bf16"),
    )
    assert rough.dtype == np.float32
    assert 1e-5 < np.abs(exact - rough).max() < 0.05


def test_no_texts_give_no_vectors(encoder):
    assert encode(encoder, [], "query").shape == (0, encoder.dimensions)


def test_non_finite_weights_are_refused(encoder):
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    with pytest.raises(BadModel, match=r"infinite or undefined.*fp32"):
        encode(encoder, TEXTS, "query")


def test_search_vectors_of_a_cosine_model_have_length_one(encoder, monkeypatch):
    loose = encoder.contract.model_copy(update={"normalize": False, "similarity": "cosine"})
    monkeypatch.setattr(encoder, "contract", loose)
    texts = ["delete a disk", "list"]
    raw, searched = (
        encode(encoder, texts, "document"),
        encoding.encode_documents(encoder, texts).rows,
    )
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-2)
    np.testing.assert_allclose(
        searched, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-6
    )


def test_first_micro_batches_are_representative_of_all():
    """The time left is estimated from them: after a tenth, about a tenth of the texts are done."""
    lengths = (
        torch.from_numpy(np.random.default_rng(0).lognormal(4, 0.8, 5000)).long().clamp(1, 256)
    )
    in_order = micro_batches(lengths, 2048)
    mixed = mix(in_order)
    assert sorted(map(len, mixed)) == sorted(map(len, in_order))
    assert mixed[0] is in_order[0], "the longest texts come first"
    assert lengths[mixed[0]].max() == lengths.max()
    tenth = len(mixed) // 10
    assert sum(map(len, mixed[:tenth])) / 5000 == pytest.approx(0.1, abs=0.02)
    assert sum(map(len, in_order[:tenth])) / 5000 < 0.06
