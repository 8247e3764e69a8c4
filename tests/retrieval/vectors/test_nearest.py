import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.retrieval.indexes import search
from trainer.retrieval.indexes.search import top_k


def by_sorting(queries, documents, k):
    """The obvious twin: every score, sorted by score and then by row."""
    scores = queries @ documents.T
    rows = np.lexsort((np.broadcast_to(np.arange(len(documents)), scores.shape), -scores), axis=1)[
        :, :k
    ]
    return np.take_along_axis(scores, rows, 1), rows


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9),
    st.integers(1, 40),
    st.integers(1, 45),
    st.integers(1, 100),
    st.integers(0, 10**6),
)
def test_search_equals_a_full_sort_even_with_ties(queries, documents, k, scores_at_once, seed):
    generator = np.random.default_rng(seed)
    a, b = (
        generator.integers(-1, 2, (count, 3)).astype(np.float32) for count in (queries, documents)
    )
    scores, rows = top_k(a, b, k, scores_at_once=scores_at_once)
    wanted_scores, wanted_rows = by_sorting(a, b, k)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)


def test_many_queries_are_searched_in_blocks(monkeypatch):
    generator = np.random.default_rng(0)
    queries, documents = (
        generator.normal(size=(50, 8)).astype(np.float32),
        generator.normal(size=(300, 8)).astype(np.float32),
    )
    monkeypatch.setattr(search, "_QUERIES_AT_ONCE", 7)
    scores, rows = top_k(queries, documents, 12, scores_at_once=500)
    wanted_scores, wanted_rows = by_sorting(queries, documents, 12)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-5)


def test_memory_holds_only_blocks_of_scores_and_documents(monkeypatch):
    """Every product is at most `scores_at_once` scores, and no more documents than that are
    copied.
    """
    sizes, largest = [], search._largest
    monkeypatch.setattr(
        search, "_largest", lambda scores, k: sizes.append(scores.numel()) or largest(scores, k)
    )
    top_k(np.ones((64, 4), np.float32), np.ones((5000, 4), np.float32), 3, scores_at_once=6400)
    assert max(sizes) == 6400
    assert len(sizes) == 50


def test_documents_may_be_a_memory_map(tmp_path):
    documents = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", documents)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        top_k(documents[:5], mapped, 3)[1], top_k(documents[:5], documents, 3)[1]
    )


def test_empty_documents_and_queries_give_empty_results():
    some, none = np.ones((3, 4), np.float32), np.ones((0, 4), np.float32)
    assert top_k(some, none, 5)[1].shape == (3, 0)
    assert top_k(none, some, 5)[1].shape == (0, 3)


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="at least one document"):
        top_k(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), 0)


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


def test_autocast_changes_nothing():
    generator = np.random.default_rng(0)
    queries, documents = (
        generator.normal(size=(count, 16)).astype(np.float32) + 5 for count in (7, 300)
    )
    with torch.autocast("cpu", torch.bfloat16):
        scores, rows = top_k(queries, documents, 10)
    exact_scores, exact_rows = top_k(queries, documents, 10)
    np.testing.assert_array_equal(rows, exact_rows)
    np.testing.assert_array_equal(scores, exact_scores)
