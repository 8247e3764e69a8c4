"""The screened search against sorting every score: among ties, near-ties that rounding hides, and
whatever the blocks.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.vectors import device_search, screened_search
from trainer.vectors.device_search import DeviceSearch
from trainer.vectors.screened_search import ScreenedSearch, pair_scores


@pytest.fixture(autouse=True, scope="module")
def few_queries_are_rounded():
    """As many queries are, so that small cases test it."""
    before, screened_search._FEW_QUERIES = screened_search._FEW_QUERIES, 0
    yield
    screened_search._FEW_QUERIES = before


def on_device(queries, k):
    return DeviceSearch(queries, k, torch.device("cpu"))


def best(queries, documents, k, block=None, new_search=ScreenedSearch):
    search = new_search(queries, k)
    for start in range(0, len(documents), block or len(documents)):
        search.add(documents[start : start + (block or len(documents))], start)
    return search.best()


def every_score(queries, documents):
    """The obvious twin: each pair by itself."""
    pairs = np.divmod(np.arange(len(queries) * len(documents)), len(documents))
    return pair_scores(queries, documents, *pairs).reshape(len(queries), len(documents))


def by_sorting(queries, documents, k):
    scores = every_score(queries, documents)
    rows = np.lexsort((np.broadcast_to(np.arange(len(documents)), scores.shape), -scores), axis=1)[
        :, :k
    ]
    return np.take_along_axis(scores, rows, 1), rows


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 60),
    st.integers(1, 45),
    st.integers(1, 70),
    st.integers(0, 10**6),
    st.sampled_from([ScreenedSearch, on_device]),
)
def test_search_equals_a_full_sort_even_with_ties(queries, documents, k, block, seed, new_search):
    generator = np.random.default_rng(seed)
    a, b = (
        generator.integers(-1, 2, (count, 3)).astype(np.float32) for count in (queries, documents)
    )
    scores, rows = best(a, b, k, block, new_search)
    there = min(k, documents)
    wanted = by_sorting(a, b, k)
    np.testing.assert_array_equal(rows[:, :there], wanted[1])
    np.testing.assert_array_equal(scores[:, :there], wanted[0])
    assert (rows[:, there:] == -1).all()
    assert np.isneginf(scores[:, there:]).all()


def near_ties(difference=1e-3):
    """Documents so alike that bfloat16, and the sums of a product of matrices, put them in another
    order.
    """
    generator = np.random.default_rng(0)
    documents = generator.normal(size=(1, 64)) + difference * generator.normal(size=(4000, 64))
    queries = documents[:40] + 0.3 * generator.normal(size=(40, 64))
    return tuple(
        (some / np.linalg.norm(some, axis=1, keepdims=True)).astype(np.float32)
        for some in (queries, documents)
    )


def hidden_ties():
    """The same, where what rounding takes away is much of the scores: most of every document is in
    no query's direction.
    """
    queries, documents = near_ties()
    beside = documents.mean(0, dtype=np.float64)
    queries = queries - np.outer(queries @ beside, beside) / np.square(beside).sum()
    return queries.astype(np.float32), documents


@pytest.fixture(params=["as this processor does", "rounded"])
def products(request, monkeypatch):
    """Products of matrices as they are here, and rounded as a processor with instructions for
    bfloat16 rounds them, on any.
    """
    product = torch.mm
    if request.param == "rounded":
        monkeypatch.setattr(torch, "mm", lambda a, b, out: out.copy_(product(a.float(), b.float())))
        monkeypatch.setattr(screened_search, "_is_bfloat16_fast", lambda: True)
    return request.param


@pytest.mark.parametrize("ties", [near_ties, hidden_ties])
def test_scores_that_round_to_the_same_are_ordered(products, ties):
    queries, documents = ties()
    scores, rows = best(queries, documents, 20, block=900)
    wanted = by_sorting(queries, documents, 20)
    np.testing.assert_array_equal(rows, wanted[1])
    np.testing.assert_array_equal(scores, wanted[0])


@pytest.mark.parametrize("products", ["rounded"], indirect=True)
@pytest.mark.parametrize("seed", range(5))
def test_blocks_with_documents_of_other_lengths_are_searched(products, seed):
    """Scores of long documents are off by more, and what they seem to reach, short ones in a later
    block need not.
    """
    generator = np.random.default_rng(seed)
    queries = generator.normal(size=(8, 32))
    beside = generator.normal(size=(250, 32))
    beside -= beside @ np.linalg.pinv(queries) @ queries  # in no query's direction
    scores = 1 + 1e-3 * generator.normal(size=(250, 1)) * np.ones(8)
    length = np.where(np.arange(250) < 50, 300.0, 0.01)[:, None]
    documents = scores @ np.linalg.pinv(queries).T + length * beside / np.linalg.norm(
        beside, axis=1, keepdims=True
    )
    given = queries.astype(np.float32), documents.astype(np.float32)
    np.testing.assert_array_equal(best(*given, 10, block=50)[1], by_sorting(*given, 10)[1])


@pytest.mark.parametrize("allowance", [screened_search._BFLOAT16, 0.0])
@pytest.mark.parametrize("products", ["rounded"], indirect=True)
def test_score_with_the_largest_rounding_is_found(products, monkeypatch, allowance):
    """Vectors nearly exact in bfloat16, and a product between two numbers in it: without the
    allowance for its rounding the better one is lost.
    """
    monkeypatch.setattr(screened_search, "_BFLOAT16", allowance)
    queries = np.float32([[1, 1, 1, 1, 2**-7 + 2**-15]])
    documents = np.float32([[1, 2**-8, 2**-22, 0, 0], [1, 2**-8, -(2**-22), -(2**-12), 2**-5]])
    found = (
        best(queries, documents, 1)[1].tolist()
        == by_sorting(queries, documents, 1)[1].tolist()
        == [[1]]
    )
    assert found == (allowance > 0)


@pytest.mark.parametrize("products", ["rounded"], indirect=True)
def test_case_with_the_largest_rounding_is_hard(monkeypatch, products):
    """Without the allowance for rounding the test above fails, so it tests something."""
    monkeypatch.setattr(
        screened_search, "_rounding", lambda vectors: np.zeros(len(vectors), np.float32)
    )
    queries, documents = hidden_ties()
    assert (best(queries, documents, 20)[1] != by_sorting(queries, documents, 20)[1]).any()


@pytest.mark.parametrize("error", [device_search.FLOAT32_ERROR, 0.0])
def test_search_on_a_device_allows_for_the_error_of_its_products(monkeypatch, error):
    """Without the allowance, documents among the best are lost."""
    monkeypatch.setattr(device_search, "FLOAT32_ERROR", error)
    monkeypatch.setattr(device_search, "_SCORES_AT_ONCE", 7 * 900)
    queries, documents = near_ties(1e-6)
    _, rows = best(queries, documents, 20, block=900, new_search=on_device)
    assert np.array_equal(rows, by_sorting(queries, documents, 20)[1]) == (error > 0)


def test_documents_with_negative_scores_are_searched(products):
    """Numbers in bfloat16 below zero are in another order as integers."""
    queries, documents = near_ties()
    found, wanted = best(-queries, documents, 20, block=900), by_sorting(-queries, documents, 20)
    assert (found[0] < 0).all()
    np.testing.assert_array_equal(found[1], wanted[1])


def test_few_pairs_are_scored_with_negative_scores(products):
    generator = np.random.default_rng(5)
    queries, documents = (
        generator.normal(size=(count, 64)).astype(np.float32) for count in (100, 8000)
    )
    documents -= np.float32(0.4) * queries.mean(0) / np.square(queries.mean(0)).mean()
    search = ScreenedSearch(queries, 60)
    search.add(documents, 0)
    assert np.median(search.best()[0]) < 0
    assert sum(len(found[0]) for found in search._candidates) < 100 * 60 * 6


def test_documents_with_scores_around_zero_are_searched(products):
    generator = np.random.default_rng(3)
    queries, documents = (
        generator.normal(size=(30, 8)).astype(np.float32),
        generator.normal(size=(500, 8)).astype(np.float32),
    )
    documents[::7] = 0.0
    for k in (100, 260, 400):
        np.testing.assert_array_equal(
            best(queries, documents, k, block=128)[1], by_sorting(queries, documents, k)[1]
        )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 300), st.integers(1, 200))
def test_products_of_this_processor_are_within_the_bound(seed, queries, documents, dimension):
    generator = np.random.default_rng(seed)
    a, b = (
        generator.normal(size=(count, dimension)).astype(np.float32)
        for count in (queries, documents)
    )
    search = ScreenedSearch(a, 1)
    search.add(b, 0)
    product = torch.mm(search._query_factors, search._factors(b).T).double().numpy()
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    allowed = search._error[:, None] + (2.0**-8 * np.abs(exact) if search.is_rounded else 0.0)
    assert (np.abs(product - exact) <= allowed).all()


def test_pairs_are_scored_in_any_order_and_repeatedly():
    generator = np.random.default_rng(4)
    queries, documents = (
        generator.normal(size=(9, 33)).astype(np.float32),
        generator.normal(size=(50, 33)).astype(np.float32),
    )
    rows = np.sort(generator.integers(0, 9, 400))[::2], generator.integers(0, 50, 400)[::2]
    scores = pair_scores(queries, documents, *rows)
    np.testing.assert_allclose(
        scores,
        (queries[rows[0]].astype(np.float64) * documents[rows[1]]).sum(1),
        rtol=1e-5,
        atol=1e-5,
    )
    for query, row, score in zip(*rows, scores, strict=True):
        assert (
            pair_scores(
                queries[query : query + 1], documents, np.zeros(1, np.int64), np.array([row])
            )[0]
            == score
        )
    assert len(pair_scores(queries, documents, np.empty(0, np.int64), np.empty(0, np.int64))) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.integers(1, 200))
def test_rounding_is_within_the_bound(seed, size, dimension):
    generator = np.random.default_rng(seed)
    a, b = (
        torch.from_numpy((size * generator.normal(size=(30, dimension))).astype(np.float32))
        for _ in range(2)
    )
    lengths, roundings = (
        [f(some.numpy()) for some in (a, b)]
        for f in (lambda some: np.linalg.norm(some, axis=1), screened_search._rounding)
    )
    allowed = roundings[0][:, None] * lengths[1] + 1.01 * lengths[0][:, None] * roundings[1]
    off = (
        (a.bfloat16().double() @ b.bfloat16().double().T - a.double() @ b.double().T).abs().numpy()
    )
    assert (off <= allowed).all()
    assert off.max() > allowed.max() / 1000, (
        "an allowance that is never near would tell nothing apart"
    )


def test_results_do_not_depend_on_blocks_or_other_queries():
    generator = np.random.default_rng(1)
    queries, documents = (
        generator.normal(size=(300, 96)).astype(np.float32),
        generator.normal(size=(5000, 96)).astype(np.float32),
    )
    whole = best(queries, documents, 30)
    for cut, block in ((300, 777), (7, 5000), (1, 4999)):
        parts = [
            best(queries[start : start + cut], documents, 30, block)
            for start in range(0, 300 if cut > 1 else 5, cut)
        ]
        for axis in (0, 1):
            found = np.concatenate([part[axis] for part in parts])
            np.testing.assert_array_equal(found, whole[axis][: len(found)])


def test_few_pairs_are_scored_and_few_scores_stored(monkeypatch):
    generator = np.random.default_rng(2)
    queries, documents = (
        generator.normal(size=(600, 32)).astype(np.float32),
        generator.normal(size=(20000, 32)).astype(np.float32),
    )
    sizes, reaching = [], screened_search.pairs_reaching
    monkeypatch.setattr(
        screened_search,
        "pairs_reaching",
        lambda scores, limits: sizes.append(scores.numel()) or reaching(scores, limits),
    )
    search = ScreenedSearch(queries, 10)
    search.add(documents, 0)
    assert max(sizes) <= 1 << 22
    assert len(sizes) > 3
    assert sum(len(found[0]) for found in search._candidates) < 600 * 10 * 6


def test_k_below_one_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        ScreenedSearch(np.eye(2, dtype=np.float32), 0)
