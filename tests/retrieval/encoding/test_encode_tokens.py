import numpy as np
import pytest
import torch
from late_interaction_toys import toy_late_interaction
from phases import Phases
from ranks import on_ranks
from toy_models import SENTENCES

from trainer.data.readers.corpus import Document
from trainer.errors import BadData, BadModel
from trainer.progress import listening
from trainer.retrieval.encoding.encode import Encoding, document_blocks, encode
from trainer.vectors.ragged import offsets_of, tokens_of
from trainer.vectors.tokens import TokenVectors

TEXTS = [
    *SENTENCES,
    *(" ".join(["disk. storage account query"] * repeats) for repeats in range(1, 9)),
    SENTENCES[0],
    "...",
    SENTENCES[2],
]
"""Of many lengths, some of them twice, one without a token that counts, in no order."""


@pytest.fixture
def encoder(toy_folder):
    return toy_late_interaction(str(toy_folder("bert")))


def alone(encoder, text):
    """The slow twin: one text at a time, rows of zeros left out."""
    with torch.no_grad():
        rows = encoder(encoder.tokenize([text], "document"))[0]
    return rows[rows.any(-1)].numpy()


def test_vectors_equal_those_of_single_texts_without_zero_rows(encoder):
    found = encode(encoder, TEXTS, "document")
    assert len(found) == len(TEXTS)
    assert found.rows.dtype == np.float32
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(found[row], alone(encoder, text), atol=1e-6)
    lengths = found.lengths
    assert lengths[TEXTS.index("...")] == 0
    assert len(set(lengths.tolist())) > 6  # else a mistake in the offsets could hide
    assert np.abs(found[0][0] - found[1][0]).max() > 0.05


@pytest.mark.parametrize("texts_at_once", [1, 3])
def test_slices_and_micro_batches_change_no_vectors(encoder, monkeypatch, texts_at_once):
    whole = encode(encoder, TEXTS, "document")
    monkeypatch.setattr(TokenVectors, "TEXTS_PER_BLOCK", texts_at_once)
    parts = encode(encoder, TEXTS, "document", micro_batch_tokens=40)
    np.testing.assert_array_equal(parts.offsets, whole.offsets)
    np.testing.assert_allclose(parts.rows, whole.rows, atol=1e-6)


def test_duplicate_text_is_encoded_once(encoder):
    calls = []
    encoder.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    encode(encoder, TEXTS, "document")
    assert sum(calls) == len(set(TEXTS)) < len(TEXTS)


def test_no_texts_give_no_vectors(encoder):
    found = encode(encoder, [], "query")
    assert len(found) == 0
    assert found.rows.shape == (0, 16)


def test_dropout_is_off_and_the_mode_is_restored(encoder):
    encoder.train()
    first, second = (
        encode(encoder, TEXTS, "document"),
        encode(encoder, TEXTS, "document"),
    )
    np.testing.assert_array_equal(first.rows, second.rows)
    assert encoder.training


def test_non_finite_weights_are_refused(encoder):
    with torch.no_grad():
        encoder.projection.weight.fill_(float("inf"))
    with pytest.raises(BadModel, match="infinite or undefined"):
        encode(encoder, TEXTS, "query")


def on_a_rank(folder):
    found = encode(toy_late_interaction(folder), TEXTS, "document", micro_batch_tokens=40)
    return found.rows, found.offsets


def test_ranks_divide_the_texts_and_get_all_vectors(encoder, toy_folder):
    whole = encode(encoder, TEXTS, "document")
    for vectors, offsets in on_ranks(3, on_a_rank, str(toy_folder("bert"))):
        np.testing.assert_array_equal(offsets, whole.offsets)
        np.testing.assert_allclose(vectors, whole.rows, atol=1e-6)


def test_corpus_is_encoded_in_blocks_in_its_order(encoder, monkeypatch):
    monkeypatch.setattr("trainer.retrieval.encoding.encode._MOST_DOCUMENTS", 3)
    documents = [Document(str(row), "title", text) for row, text in enumerate(TEXTS)]
    taken, phases = [], Phases()

    class Documents(list):
        def __iter__(self):
            return (taken.append(document) or document for document in super().__iter__())

    blocks = document_blocks(Encoding(encoder), Documents(documents))
    assert len(next(blocks).documents) == 3
    assert len(taken) == 3  # nothing is read ahead
    rest = list(blocks)
    with listening(phases):
        list(document_blocks(Encoding(encoder), documents))
    assert phases.finished == [("encoding documents", len(TEXTS), len(TEXTS))]
    assert [document for block in rest for document in block.documents] == documents[3:]
    np.testing.assert_allclose(
        rest[0].vectors[0], alone(encoder, documents[3].full_text), atol=1e-6
    )


def test_document_without_a_scored_token_is_refused(encoder):
    documents = [Document("fine", "", "disk"), Document("dots", "", "...!")]
    with pytest.raises(BadData, match=r"'dots' has no token.*remove it"):
        list(document_blocks(Encoding(encoder), documents))


def test_selection_and_padding_equal_the_slow_form():
    random = np.random.default_rng(3)
    lengths = np.array([3, 1, 0, 4])
    vectors = TokenVectors(random.normal(size=(8, 2)).astype(np.float32), offsets_of(lengths))
    chosen = vectors.select(np.array([3, 2, 0, 3]))
    for row, wanted in enumerate([3, 2, 0, 3]):
        np.testing.assert_array_equal(chosen[row], vectors[wanted])
    padded = vectors.to_padded()
    assert padded.shape == (4, 4, 2)
    for row in range(4):
        np.testing.assert_array_equal(padded[row, : lengths[row]], vectors[row])
        assert not padded[row, lengths[row] :].any()
    assert tokens_of(vectors.offsets, np.array([], dtype=np.int64)).tolist() == []
