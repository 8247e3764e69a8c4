"""The order of samples: a permutation per pass, a pure function of (seed, step), another one in
each pass, and even.
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from trainer.data.order import (
    batch_samples,
    check_batch_divisible,
    own_part,
    permute,
    steps_for_passes,
    stream_samples,
)
from trainer.errors import BadRecipe

keys = some.integers(0, 2**63)


@given(some.integers(1, 700), keys)
@settings(max_examples=200, deadline=None)
def test_order_is_a_permutation(size, key):
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@given(some.integers(1, 2**40), keys, some.data())
@settings(max_examples=100, deadline=None)
def test_permutation_of_any_size_is_computed_position_by_position(size, key, data):
    positions = np.array(
        data.draw(some.lists(some.integers(0, size - 1), min_size=1, max_size=20, unique=True))
    )
    together = permute(positions, size, key)
    assert len(set(together.tolist())) == len(positions)
    assert together.min() >= 0
    assert together.max() < size
    assert [
        int(permute(positions[at : at + 1], size, key)[0]) for at in range(len(positions))
    ] == together.tolist()


@given(some.integers(0, 2**32), some.integers(2, 300), some.integers(2, 20), some.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_samples_are_all_in_every_pass(seed, samples, batch_size, passes):
    steps = steps_for_passes(samples, batch_size, passes)
    batches = [batch_samples(seed, step, samples, batch_size) for step in range(steps)]
    assert {len(batch) for batch in batches} == {batch_size}, "the global batch keeps its size"
    stream = np.concatenate(batches)
    for number in range(passes):
        one_pass = stream[number * samples : (number + 1) * samples]
        assert sorted(one_pass.tolist()) == list(range(samples))
    assert (steps - 1) * batch_size < passes * samples, "no step more than that takes"


def test_batches_of_64_have_all_151_rows_in_one_epoch():
    """Of these, 23 used to be left out of every pass."""
    steps = steps_for_passes(151, 64, 1)
    seen = np.concatenate([batch_samples(0, step, 151, 64) for step in range(steps)])
    assert set(seen.tolist()) == set(range(151))


def pass_order(seed, number, samples=97, batch_size=8):
    """The samples of one pass in their order."""
    first, last = number * samples // batch_size, -(-(number + 1) * samples // batch_size)
    stream = np.concatenate(
        [batch_samples(seed, step, samples, batch_size) for step in range(first, last)]
    )
    return stream[number * samples - first * batch_size :][:samples].tolist()


def test_order_depends_only_on_seed_and_step():
    before = batch_samples(13, 29, 97, 8).tolist()
    np.random.default_rng(0).random(100)
    batch_samples(13, 30, 97, 8)
    assert batch_samples(13, 29, 97, 8).tolist() == before


def test_order_is_the_same_in_another_process():
    code = (
        "from trainer.data.order import batch_samples; print(batch_samples(13, 29, 97, 8).tolist())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert other.stdout.strip() == str(batch_samples(13, 29, 97, 8).tolist())


def test_passes_and_seeds_differ():
    orders = [tuple(pass_order(seed, number)) for seed in range(20) for number in range(10)]
    assert len(set(orders)) == 200


def test_next_pass_of_a_seed_is_not_the_first_of_another():
    assert not {tuple(pass_order(1, number)) for number in range(30)} & {
        tuple(pass_order(2, number)) for number in range(30)
    }


@pytest.mark.parametrize("samples", [5, 16, 23, 64])
def test_order_is_uniform(samples):
    """Chi square of where each sample stands, over many epochs: every place is as likely as every
    other.
    """
    epochs = 400 * samples
    counts = np.zeros((samples, samples))
    for key in range(epochs // 20):
        counts[np.arange(samples), permute(np.arange(samples), samples, key)] += 1
    expected = epochs / 20 / samples
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = (samples - 1) ** 2
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5
    assert ((np.roll(counts, 1, axis=0) - counts) != 0).any()


def test_neighbours_are_separated():
    """Rows that stand together in a file, which are often alike, are no more likely to share a
    batch than others.
    """
    samples, batch_size, together = 200, 20, 0
    for epoch in range(200):
        place = np.empty(samples, int)
        place[pass_order(3, epoch, samples, batch_size)] = np.arange(samples) // batch_size
        together += int((place[1:] == place[:-1]).sum())
    expected = 200 * 199 * 19 / 199
    assert abs(together - expected) < 5 * expected**0.5


def test_large_seeds_do_not_overflow():
    assert len(set(batch_samples(2**62, 10**9, 50, 10).tolist())) == 10


def test_order_is_the_same_as_in_earlier_versions():
    """Fixed numbers: a run that is repeated with a later version sees its samples in the same
    order.
    """
    assert batch_samples(13, 29, 96, 8).tolist() == [4, 16, 14, 57, 27, 86, 47, 66]
    assert batch_samples(13, 29, 97, 8).tolist() == [38, 95, 96, 16, 14, 57, 27, 86]
    assert batch_samples(0, 0, 10**6, 4).tolist() == [942397, 927570, 390671, 506287]


@given(
    some.integers(1, 100),
    some.integers(0, 2**32),
    some.integers(0, 5),
    some.integers(1, 300),
    some.integers(1, 50),
)
@settings(max_examples=100, deadline=None)
def test_stream_is_a_sequence_of_permutations_and_each_part_is_computable_alone(
    samples, seed, source, first, count
):
    whole = stream_samples(np.arange(first + count), samples, seed, source)
    assert (
        stream_samples(np.arange(first, first + count), samples, seed, source).tolist()
        == whole[first:].tolist()
    )
    for start in range(0, len(whole) - samples + 1, samples):
        assert sorted(whole[start : start + samples].tolist()) == list(range(samples))


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_parts_of_all_ranks_form_the_batch(ranks):
    batch = batch_samples(13, 29, 97, 8)
    parts = [own_part(batch, rank, ranks) for rank in range(ranks)]
    assert {len(part) for part in parts} == {8 // ranks}
    assert np.concatenate(parts).tolist() == batch.tolist()


@pytest.mark.parametrize(
    ("batch_size", "ranks", "sizes"),
    [
        (10, 4, "8 or 12"),
        (3, 4, "4"),
        (64, 3, "63 or 66"),
        (1023, 8, "1016 or 1024"),
        (2, 8, "8"),
        (5, 2, "4 or 6"),
    ],
)
def test_batch_without_equal_parts_is_refused_with_valid_sizes(batch_size, ranks, sizes):
    with pytest.raises(
        BadRecipe,
        match=(
            f"batch_size={batch_size} cannot be cut into {ranks} equal parts.* set it to {sizes},"
            " or start"
        ),
    ):
        check_batch_divisible(batch_size, ranks)
    for size in map(int, sizes.split(" or ")):
        check_batch_divisible(size, ranks)
