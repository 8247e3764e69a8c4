import itertools

import hypothesis
import numpy as np
from hypothesis import strategies as given

from trainer.retrieval.token_index.pooling import merge_similar_tokens
from trainer.vectors.ragged import offsets_of
from trainer.vectors.tokens import TokenVectors


def unit(random, *shape):
    vectors = random.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def slow(vectors, clusters):
    """Ward's method by its definition: the pair whose union adds least to the squared distances
    from the means, found by trying all.
    """
    groups = [[row] for row in range(len(vectors))]

    def spread(rows):
        some = vectors[rows].astype(np.float64)
        return np.square(some - some.mean(0)).sum()

    while len(groups) > clusters:
        one, other = min(
            itertools.combinations(groups, 2),
            key=lambda pair: spread(pair[0] + pair[1]) - spread(pair[0]) - spread(pair[1]),
        )
        groups.remove(one)
        groups.remove(other)
        groups.append(one + other)
    means = np.stack([vectors[rows].mean(0) for rows in groups])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(given.integers(1, 14), given.integers(2, 6), given.integers(0, 99))
def test_clusters_equal_the_definition(length, factor, seed):
    vectors = unit(np.random.default_rng(seed), length, 5)
    pooled = merge_similar_tokens(TokenVectors(vectors, np.array([0, length])), factor)
    wanted = slow(vectors, -(-length // factor))
    assert len(pooled.rows) == len(wanted)
    order, wanted_order = np.lexsort(pooled.rows.round(4).T), np.lexsort(wanted.round(4).T)
    np.testing.assert_allclose(pooled.rows[order], wanted[wanted_order], atol=1e-5)


def test_texts_are_pooled_separately():
    random = np.random.default_rng(1)
    lengths = np.array([5, 1, 8])
    tokens = TokenVectors(unit(random, 14, 4), offsets_of(lengths))
    pooled = merge_similar_tokens(tokens, 2)
    assert pooled.lengths.tolist() == [3, 1, 4]
    np.testing.assert_allclose(pooled[1], tokens[1], atol=1e-6)
    np.testing.assert_allclose(
        pooled[2], merge_similar_tokens(TokenVectors(tokens[2], np.array([0, 8])), 2).rows
    )
    np.testing.assert_allclose(np.linalg.norm(pooled.rows, axis=1), 1, atol=1e-6)
    assert merge_similar_tokens(tokens, 1) is tokens


def test_equal_vectors_become_one():
    one, other = np.eye(2, dtype=np.float32)
    pooled = merge_similar_tokens(
        TokenVectors(np.stack([one, other, one, other]), np.array([0, 4])), 2
    )
    assert sorted(pooled.rows.tolist()) == [[0, 1], [1, 0]]
