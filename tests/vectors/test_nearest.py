"""The protocol of vectors: both kinds are searched, selected and stored alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.vectors import dense
from trainer.vectors.dense import DenseVectors
from trainer.vectors.ragged import offsets_of
from trainer.vectors.tokens import TokenVectors
from trainer.vectors.vectors import nearest_documents


def top_k(queries, documents, k, device="cpu"):
    return nearest_documents(DenseVectors(queries), DenseVectors(documents), k, device)


def by_sorting(queries, documents, k):
    """The obvious twin: every score, sorted by score and then by row."""
    scores = queries @ documents.T
    rows = np.lexsort((np.broadcast_to(np.arange(len(documents)), scores.shape), -scores), axis=1)[
        :, :k
    ]
    return np.take_along_axis(scores, rows, 1), rows


def small_vectors(kind, texts, seed=0):
    """Vectors of small whole numbers, of texts of several lengths where tokens have vectors."""
    lengths = np.arange(texts) % 3 + 1 if kind is TokenVectors else np.ones(texts, np.int64)
    rows = np.random.default_rng(seed).integers(-3, 4, (int(lengths.sum()), 4)).astype(np.float32)
    rows[:, 0] += 10  # no row of zeros
    return kind.from_rows(rows, lengths)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([3, 80]),
    st.integers(1, 40),
    st.integers(1, 45),
    st.integers(1, 50),
    st.integers(0, 10**6),
)
def test_search_equals_a_full_sort_even_with_ties(queries, documents, k, block, seed):
    """Few queries and many are searched in different ways."""
    generator = np.random.default_rng(seed)
    a, b = (
        generator.integers(-1, 2, (count, 3)).astype(np.float32) for count in (queries, documents)
    )
    before = dense.DOCUMENTS_AT_ONCE
    dense.DOCUMENTS_AT_ONCE = block
    try:
        scores, rows = top_k(a, b, k)
    finally:
        dense.DOCUMENTS_AT_ONCE = before
    wanted_scores, wanted_rows = by_sorting(a, b, k)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)


def test_documents_may_be_a_memory_map(tmp_path):
    documents = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", documents)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="c")
    np.testing.assert_array_equal(
        top_k(documents[:5], mapped, 3)[1], top_k(documents[:5], documents, 3)[1]
    )


@pytest.mark.parametrize("kind", [DenseVectors, TokenVectors])
def test_empty_documents_and_queries_give_empty_results(kind):
    some, none = small_vectors(kind, 3), small_vectors(kind, 0)
    assert nearest_documents(some, none, 5)[1].shape == (3, 0)
    assert nearest_documents(none, some, 5)[1].shape == (0, 3)


@pytest.mark.parametrize("kind", [DenseVectors, TokenVectors])
def test_k_below_one_is_refused(kind):
    with pytest.raises(ValueError, match="at least one document"):
        nearest_documents(small_vectors(kind, 1), small_vectors(kind, 1), 0)


@pytest.mark.parametrize("kind", [DenseVectors, TokenVectors])
def test_search_of_blocks_equals_search_of_everything(kind):
    queries, documents = small_vectors(kind, 70), small_vectors(kind, 90, seed=1)
    search = queries.search(7)
    for start in range(0, 90, 40):
        search.add(documents.select(np.arange(start, min(start + 40, 90))), start)
    for ours, wanted in zip(search.best(), nearest_documents(queries, documents, 7), strict=True):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("kind", [DenseVectors, TokenVectors])
def test_scores_of_pairs_are_those_of_the_search(kind):
    queries, documents = small_vectors(kind, 3), small_vectors(kind, 5, seed=1)
    scores, rows = nearest_documents(queries, documents, 5)
    pairs = queries.pair_scores(documents, np.repeat(np.arange(3), 5), rows.ravel())
    np.testing.assert_array_equal(pairs.reshape(3, 5), scores)
    none = np.empty(0, np.int64)
    assert queries.pair_scores(documents, none, none).shape == (0,)


@pytest.mark.parametrize("kind", [DenseVectors, TokenVectors])
def test_search_agrees_with_the_score_of_training(kind):
    queries, documents = small_vectors(kind, 3), small_vectors(kind, 5, seed=1)
    wanted = kind.score()(
        torch.from_numpy(queries.to_padded()), torch.from_numpy(documents.to_padded())
    ).numpy()
    scores, rows = nearest_documents(queries, documents, 5)
    np.testing.assert_allclose(scores, np.take_along_axis(wanted, rows, 1), rtol=1e-6)


@pytest.mark.parametrize("kind", [DenseVectors, TokenVectors])
def test_vectors_are_stored_and_joined_as_they_were(kind, tmp_path):
    vectors = small_vectors(kind, 7)
    assert not kind.is_saved(tmp_path, "document-000001")
    vectors.save(tmp_path, "document-000001")
    assert kind.is_saved(tmp_path, "document-000001")
    parts = [vectors.select(np.arange(start, min(start + 3, 7))) for start in range(0, 7, 3)]
    for again in (
        kind.load(tmp_path, "document-000001"),
        kind.join(iter(parts), 7, 4),
        kind.from_rows(vectors.rows, vectors.lengths),
    ):
        assert len(again) == 7
        np.testing.assert_array_equal(again.to_padded(), vectors.to_padded())
        np.testing.assert_array_equal(again.lengths, vectors.lengths)


def test_text_without_a_token_is_empty():
    vectors = TokenVectors(np.ones((3, 2), np.float32), offsets_of(np.array([1, 0, 2])))
    assert vectors.empty_texts().tolist() == [1]
    assert small_vectors(DenseVectors, 3).empty_texts().tolist() == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_gpu_gives_the_same_results():
    generator = np.random.default_rng(0)
    queries, documents = (
        generator.integers(-3, 4, (count, 16)).astype(np.float32) for count in (200, 5000)
    )
    for ours, wanted in zip(
        top_k(queries, documents, 20, "cuda"), by_sorting(queries, documents, 20), strict=True
    ):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("queries", [7, 100])
def test_autocast_changes_nothing(queries):
    generator = np.random.default_rng(0)
    a, b = (generator.normal(size=(count, 16)).astype(np.float32) + 5 for count in (queries, 300))
    with torch.autocast("cpu", torch.bfloat16):
        scores, rows = top_k(a, b, 10)
    exact_scores, exact_rows = top_k(a, b, 10)
    np.testing.assert_array_equal(rows, exact_rows)
    np.testing.assert_array_equal(scores, exact_scores)
