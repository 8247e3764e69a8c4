import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as given

from trainer.errors import BadData
from trainer.vectors import maxsim_device_search, tokens
from trainer.vectors.maxsim_search import MaxSimSearch
from trainer.vectors.ragged import offsets_of
from trainer.vectors.tokens import TokenVectors


def best(queries, documents, k, deleted=None, products_at_once=1 << 22, blocks=1):
    """The best documents, shown in several blocks."""
    search = MaxSimSearch(queries, k, products_at_once)
    size = -(-len(documents) // blocks)
    for start in range(0, len(documents), size):
        part = documents.select(np.arange(start, min(start + size, len(documents))))
        gone = None if deleted is None else deleted[start : start + size]
        search.add(part.rows, part.offsets, start, gone)
    return search.best()


def slow(queries, documents, k):
    """The double loop, in float64; ties in the order of the documents."""
    scores = np.zeros((len(queries), len(documents)))
    for row, query in enumerate(queries):
        for document in range(len(documents)):
            tokens = documents[document].astype(np.float64)
            scores[row, document] = sum(
                max(float(token @ other) for other in tokens)
                for token in query.astype(np.float64)
                if token.any()
            )
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(given.data())
def test_best_documents_equal_the_double_loop(data):
    """Whole numbers, so that ties abound and sums are exact whatever their order."""
    lengths = data.draw(given.lists(given.integers(1, 6), min_size=1, max_size=12))
    k = data.draw(given.integers(1, 15))
    room = data.draw(given.sampled_from([1, 40, 1 << 22]))
    random = np.random.default_rng(data.draw(given.integers(0, 99)))
    documents = TokenVectors(
        random.integers(-2, 3, (sum(lengths), 3)).astype(np.float16), offsets_of(np.array(lengths))
    )
    queries = random.integers(-2, 3, (3, 4, 3)).astype(np.float32)
    queries[:, 0] = 1
    queries[1, 2:] = 0
    blocks = data.draw(given.integers(1, 3))
    scores, rows = best(queries, documents, k, products_at_once=room, blocks=blocks)
    assert (rows[:, len(documents) :] == -1).all()
    scores, rows = scores[:, : len(documents)], rows[:, : len(documents)]
    wanted_scores, wanted_rows = slow(queries, documents, k)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)


def test_scores_of_real_numbers_agree_with_the_double_loop():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 20, 50)
    vectors = random.normal(size=(lengths.sum(), 8)).astype(np.float32)
    documents = TokenVectors(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), offsets_of(lengths)
    )
    queries = random.normal(size=(4, 5, 8)).astype(np.float32)
    scores, rows = best(queries, documents, 10)
    wanted_scores, wanted_rows = slow(queries, documents, 10)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-5)


def test_negative_maximum_counts_and_padding_does_not():
    """Were padding to take part, the score of the first document would be 0 and it would win."""
    documents = TokenVectors(np.float32([[-1, 0], [-0.5, 0], [-2, 0]]), np.array([0, 1, 3]))
    scores, rows = best(np.float32([[[1, 0], [0, 0]]]), documents, 2)
    assert (scores.tolist(), rows.tolist()) == ([[-0.5, -1.0]], [[1, 0]])


@pytest.mark.parametrize("lengths", [[0, 2, 0, 0, 1, 0], [0, 0]])
def test_documents_without_tokens_and_deleted_documents_come_last(lengths):
    documents = TokenVectors(
        np.float32([[1, 0], [3, 0], [2, 0]])[: sum(lengths)], offsets_of(np.array(lengths))
    )
    scores, rows = best(np.float32([[[1, 0]]]), documents, 6)
    if sum(lengths):
        assert (scores[0, :2].tolist(), rows[0, :2].tolist()) == ([3, 2], [1, 4])
        deleted = np.arange(6) == 1
        scores, rows = best(np.float32([[[1, 0]]]), documents, 6, deleted)
        assert (scores[0, 0], rows[0, 0]) == (2, 4)
    assert np.isneginf(scores[0, 2:]).all()
    assert (rows[0, 2:] == -1).all()


def test_query_without_tokens_is_refused():
    documents = TokenVectors(np.float32([[1, 0]]), np.array([0, 1]))
    queries = np.tile(np.float32([[[1, 0]]]), (100, 1, 1))
    queries[69] = 0
    with pytest.raises(BadData, match="query 70 of 100 has no token"):
        best(queries, documents, 1)
    with pytest.raises(ValueError, match="at least one"):
        best(np.float32([[[1, 0]]]), documents, 0)


def test_autocast_changes_nothing():
    """Validation runs inside the trainer's."""
    queries = np.random.default_rng(3).standard_normal((3, 4, 8), dtype=np.float32)
    documents = TokenVectors(
        np.random.default_rng(4).standard_normal((20, 8), dtype=np.float32),
        np.array([0, 5, 6, 12, 20]),
    )
    wanted = best(queries, documents, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = best(queries, documents, 3)
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


class TestOnADevice:
    """In Triton's interpreter, on the CPU."""

    @pytest.fixture(autouse=True)
    def kernel_on_the_cpu(self, monkeypatch):
        pytest.importorskip("triton", reason="Triton is not installed")
        monkeypatch.setattr(tokens, "has_kernel", lambda device: True)

    @pytest.mark.parametrize("tokens_at_once", [8, 1 << 18])
    def test_results_are_those_of_the_cpu(self, monkeypatch, tokens_at_once):
        """Whole numbers, so that ties abound and sums are exact whatever their order."""
        monkeypatch.setattr(tokens, "TOKENS_AT_ONCE", tokens_at_once)
        monkeypatch.setattr(maxsim_device_search, "_QUERIES_AT_ONCE", 3)
        random = np.random.default_rng(0)
        lengths = np.array([2, 0, 5, 1, 1, 3, 0, 6])
        documents = TokenVectors(
            random.integers(-2, 3, (lengths.sum(), 3)).astype(np.float16), offsets_of(lengths)
        )
        queries = TokenVectors(
            random.integers(-2, 3, (10, 3)).astype(np.float32), np.array([0, 1, 5, 8, 10])
        )
        for k in (3, 10):
            search = queries.search(k, "cpu")
            assert isinstance(search.maxsim, maxsim_device_search.MaxSimDeviceSearch)
            search.add(documents, 0)
            search.add(documents, len(documents))
            expected = MaxSimSearch(queries.to_padded(), k)
            for first_row in (0, len(documents)):
                expected.add(documents.rows, documents.offsets, first_row)
            for found, wanted in zip(search.best(), expected.best(), strict=True):
                np.testing.assert_array_equal(found, wanted)

    def test_bad_searches_are_refused(self):
        queries = TokenVectors(np.ones((1, 2), np.float32), np.array([0, 1, 1]))
        with pytest.raises(BadData, match="query 2 of 2 has no token"):
            queries.search(1, "cpu")
        with pytest.raises(ValueError, match="at least one"):
            queries.search(0, "cpu")
