"""Negatives drawn from the batch: never a known positive or its twin, the same on any number of
ranks, other ones each time.
"""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from trainer.batch import Texts, identity, pair_identity
from trainer.data.collate_pairs import collate_pairs
from trainer.data.module import Steps
from trainer.data.random_negatives import RandomNegatives
from trainer.data.rows import Row, known_positives

TEXTS = tuple("abcdefgh")


@given(
    some.lists(
        some.tuples(some.sampled_from(TEXTS), some.sampled_from(TEXTS)), min_size=4, max_size=30
    ),
    some.integers(1, 4),
    some.integers(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_negatives_are_distinct_and_no_known_positives(pairs, count, step):
    rows = [
        Row(query, positive, ("a negative of its own",), (1.0, 0.0)) for query, positive in pairs
    ]
    known = known_positives(rows)
    draw = RandomNegatives(rows, known, seed=3, count=count)
    samples = np.arange(len(rows))
    for place in range(len(rows)):
        row = draw.row_with_negatives(step, samples, place)
        right = {positive for query, positive in pairs if query == row.query} | {row.query}
        real = [text for text in row.negatives if text != row.positive]
        assert len(row.negatives) == count
        assert not set(real) & right
        assert len(set(real)) == len(real)
        possible = {positive for _, positive in pairs} - right
        assert len(real) == min(count, len(possible)), "as many as the batch has"
        assert set(real) <= possible
        assert row.labels is None


def steps_of(rank=0, ranks=1, seed=3, rows=None):
    rows = rows or [
        Row(f"query {number}", f"document {number % 9}", source=f"rows:{number}")
        for number in range(24)
    ]
    known = known_positives(rows)

    def tokenize(texts, *_):
        return Texts.of([[1]] * len(texts), [identity(text) for text in texts])

    def tokenize_pairs(queries, documents):
        return Texts.of(
            [[1]] * len(queries),
            [
                pair_identity(identity(q), identity(d))
                for q, d in zip(queries, documents, strict=True)
            ],
        )

    make = partial(
        collate_pairs,
        tokenize=tokenize,
        tokenize_pairs=tokenize_pairs,
        known_positives=known,
        negatives_per_query=3,
    )
    return Steps(
        rows,
        make,
        seed,
        8,
        0,
        6,
        rank=rank,
        ranks=ranks,
        random_negatives=RandomNegatives(rows, known, seed, 3),
    )


@pytest.mark.parametrize("ranks", [2, 4])
def test_negatives_are_the_same_on_any_number_of_ranks(ranks):
    for step in range(6):
        whole = steps_of().batch(step).documents.identities.tolist()
        parts = [
            steps_of(rank, ranks).batch(step).documents.identities.tolist() for rank in range(ranks)
        ]
        assert [name for part in parts for name in part] == whole


def test_negatives_differ_between_passes_and_seeds():
    steps = steps_of()
    first = {
        tuple(candidates)
        for step in range(3)
        for candidates in steps.batch(step).documents.identities.reshape(8, 4).tolist()
    }
    again = {
        tuple(candidates)
        for step in range(3, 6)
        for candidates in steps.batch(step).documents.identities.reshape(8, 4).tolist()
    }
    other = {
        tuple(candidates)
        for step in range(3)
        for candidates in steps_of(seed=4).batch(step).documents.identities.reshape(8, 4).tolist()
    }
    assert len(first) == 24
    assert len(first & again) < 12
    assert len(first & other) < 12


def test_positive_is_the_padding_of_a_batch_without_other_texts():
    rows = [Row(f"query {number}", "the one document") for number in range(8)]
    batch = steps_of(rows=rows).batch(0)
    pairs = batch.documents.identities.reshape(8, 4)
    assert (pairs == pairs[:, :1]).all()
    assert (pairs[:, :, None] == batch.known_positives[:, None, :]).any(2).all()
