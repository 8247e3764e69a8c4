"""Sparse vectors: search and scores against dense products, and their arrays."""

import numpy as np
import pytest
import torch
from ranks import on_ranks

from trainer.collectives import rank, ranks
from trainer.vectors import sparse
from trainer.vectors.sparse import SparseVectors
from trainer.vectors.vectors import nearest_documents

VOCABULARY = 50


def random_weights(texts, seed=0, active=0.1):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(texts, VOCABULARY, generator=generator)
    return weights * (torch.rand(texts, VOCABULARY, generator=generator) < active)


def sparse_vectors(weights):
    parts = [(torch.arange(len(weights)), weights)]
    return SparseVectors.from_micro_batches(
        parts, len(weights), weights.shape[1], torch.device("cpu")
    )


def test_search_equals_the_dense_product(monkeypatch):
    monkeypatch.setattr(sparse, "DOCUMENTS_AT_ONCE", 70)
    queries, documents = random_weights(9), random_weights(300, seed=1)
    queries[3] = 0
    scores, rows = nearest_documents(sparse_vectors(queries), sparse_vectors(documents), 40)
    products = queries.double() @ documents.double().T
    expected = products.sort(dim=1, descending=True, stable=True)
    assert (rows == expected.indices[:, :40].numpy()).all()
    np.testing.assert_allclose(scores, expected.values[:, :40].numpy(), rtol=1e-6)


def test_pair_score_equals_that_of_search():
    queries, documents = (sparse_vectors(random_weights(12, seed)) for seed in (2, 3))
    scores, rows = nearest_documents(queries, documents, 12)
    pairs = np.repeat(np.arange(12), 12)
    assert (queries.pair_scores(documents, pairs, rows.ravel()) == scores.ravel()).all()


def test_fewer_documents_than_requested():
    scores, rows = sparse_vectors(random_weights(2)).search(5).best()
    assert (scores == -np.inf).all()
    assert (rows == -1).all()


def test_vectors_are_saved_selected_and_joined(tmp_path):
    weights = random_weights(20)
    vectors = sparse_vectors(weights)
    vectors.save(tmp_path, "block")
    assert SparseVectors.is_saved(tmp_path, "block")
    stored = SparseVectors.load(tmp_path, "block")
    assert np.array_equal(stored.to_padded(), weights.numpy())
    order = np.array([7, 0, 19])
    assert np.array_equal(stored.select(order).to_padded(), weights.numpy()[order])
    parts = iter([stored.select(np.arange(5)), stored.select(np.arange(5, 20))])
    assert np.array_equal(SparseVectors.join(parts, 20, VOCABULARY).to_padded(), weights.numpy())
    assert len(SparseVectors.join(iter([]), 0, VOCABULARY)) == 0


def encoded_by_turns():
    weights = random_weights(11)
    own = [(torch.tensor([row]), weights[row : row + 1]) for row in range(rank(), 11, ranks())]
    return SparseVectors.from_micro_batches(own, 11, VOCABULARY, torch.device("cpu")).to_padded()


@pytest.mark.parametrize("count", [1, 3])
def test_every_rank_gets_all_vectors(count):
    for answer in on_ranks(count, encoded_by_turns):
        assert np.array_equal(answer, random_weights(11).numpy())
