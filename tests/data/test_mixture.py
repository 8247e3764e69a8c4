"""Mixtures: shares exact, evenly interleaved, each set by permutations of its own, every step
computable alone.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from trainer.data.mixture import Mixture, turns, turns_before, whole_weights
from trainer.data.order import own_part
from trainer.errors import BadData

weight_lists = some.lists(some.integers(1, 50), min_size=2, max_size=6)


def merged(weights, count):
    """The slow, obvious twin: every time at which a set is due, sorted."""
    due = [
        (Fraction(2 * n + 1, 2 * weight), source, n)
        for source, weight in enumerate(weights)
        for n in range(count)
    ]
    return [(source, n) for _, source, n in sorted(due)[:count]]


@given(weight_lists, some.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_turns_are_the_merged_times_and_each_is_computable_alone(weights, first):
    wanted = merged(weights, first + 20)
    sources, ordinals = turns(weights, first, 20)
    assert list(zip(sources.tolist(), ordinals.tolist(), strict=True)) == wanted[first:]
    assert turns_before(weights, first) == [
        sum(source == own for own, _ in wanted[:first]) for source in range(len(weights))
    ]


@given(some.lists(some.integers(1, 10**9), min_size=2, max_size=8), some.integers(0, 10**15))
@settings(max_examples=200, deadline=None)
def test_shares_are_exact_up_to_rounding_and_exact_after_each_sum_of_weights(weights, position):
    total = sum(weights)
    taken = turns_before(weights, position)
    assert sum(taken) == position
    for count, weight in zip(taken, weights, strict=True):
        assert abs(count - Fraction(position * weight, total)) <= Fraction(1, 2) + Fraction(
            len(weights) * weight, 2 * total
        )
    assert turns_before(weights, 3 * total) == [3 * weight for weight in weights]


def test_turns_are_spread_evenly():
    sources, _ = turns((3, 1), 0, 400)
    gaps = np.diff(np.flatnonzero(sources == 1))
    assert set(gaps.tolist()) == {4}
    assert turns((1, 1, 1), 0, 9)[0].tolist() == [0, 1, 2] * 3


def test_weights_count_as_decimal_numbers():
    assert whole_weights([0.1, 0.2, 0.7]) == (1, 2, 7), "not as the nearest binary fractions"
    assert whole_weights([1e-3, 1.0]) == (1, 1000)
    assert whole_weights([30, 20]) == (3, 2)


parts = some.lists(some.tuples(some.integers(1, 40), some.integers(1, 9)), min_size=2, max_size=4)


def mixture_of(parts, one_source_per_batch):
    sizes, weights = zip(*parts, strict=True)
    return Mixture(
        tuple(f"set{at}" for at in range(len(parts))), sizes, weights, one_source_per_batch
    )


def walk(mixture, seed, steps, batch_size):
    return np.concatenate([mixture.batch_samples(seed, step, batch_size) for step in range(steps)])


def source_of(mixture, samples):
    return np.searchsorted(np.cumsum(mixture.sizes), samples, side="right")


@given(
    parts, some.booleans(), some.integers(0, 2**32 - 1), some.integers(1, 9), some.integers(1, 30)
)
@settings(max_examples=100, deadline=None)
def test_set_is_seen_completely_before_any_sample_repeats(
    parts, one_source_per_batch, seed, batch_size, steps
):
    mixture = mixture_of(parts, one_source_per_batch)
    taken = walk(mixture, seed, steps, batch_size)
    starts = np.cumsum([0, *mixture.sizes])
    assert set(taken.tolist()) <= set(range(starts[-1]))
    for source, size in enumerate(mixture.sizes):
        own = taken[source_of(mixture, taken) == source]
        for start in range(0, len(own), size):
            one_pass = own[start : start + size].tolist()
            assert len(set(one_pass)) == len(one_pass)
    counts = np.bincount(source_of(mixture, taken), minlength=len(mixture.sizes)).tolist()
    unit = batch_size if mixture.one_source_per_batch else 1
    assert counts == [unit * count for count in turns_before(mixture.weights, len(taken) // unit)]


@given(parts, some.booleans(), some.integers(0, 50), some.sampled_from([1, 2, 4]))
@settings(max_examples=50, deadline=None)
def test_parts_of_the_ranks_form_the_batch(parts, one_source_per_batch, step, ranks):
    batch = mixture_of(parts, one_source_per_batch).batch_samples(13, step, 8)
    assert (
        np.concatenate([own_part(batch, rank, ranks) for rank in range(ranks)]).tolist()
        == batch.tolist()
    )


THREE = Mixture(("a", "b", "c"), sizes=(50, 30, 20), weights=(5, 3, 2))


def test_weights_equal_to_the_sizes_give_one_pass_over_each_set():
    taken = walk(THREE, 13, 10, 10)
    assert sorted(taken.tolist()) == list(range(100))
    for batch in taken.reshape(10, 10):
        assert np.bincount(source_of(THREE, batch)).tolist() == [5, 3, 2]


def test_orders_differ_between_passes_seeds_and_sets():
    equal = Mixture(("a", "b"), sizes=(30, 30), weights=(1, 1))
    orders = set()
    for seed in (1, 2):
        taken = walk(equal, seed, 12, 10)
        for source in (0, 1):
            own = taken[source_of(equal, taken) == source] - 30 * source
            orders |= {tuple(own[:30].tolist()), tuple(own[30:].tolist())}
    assert len(orders) == 8


def test_batches_of_one_source_take_turns_by_weight():
    mixture = Mixture(("a", "b", "c"), (50, 30, 20), (2, 1, 1), one_source_per_batch=True)
    whose = [
        set(source_of(mixture, mixture.batch_samples(13, step, 8)).tolist()) for step in range(40)
    ]
    assert all(len(sources) == 1 for sources in whose)
    counts = np.bincount([source for sources in whose for source in sources]).tolist()
    assert counts == [20, 10, 10]
    mixed_ones = Mixture(("a", "b", "c"), (50, 30, 20), (2, 1, 1))
    assert all(
        len(set(source_of(mixed_ones, mixed_ones.batch_samples(13, step, 8)).tolist())) == 3
        for step in range(40)
    )


def test_set_too_small_for_its_share_of_a_batch_is_refused_by_name():
    Mixture(("big", "small"), (100, 4), (1, 1)).check_batch(8)
    with pytest.raises(BadData, match="small has 4 training rows, but 5 of the 10 rows of a batch"):
        Mixture(("big", "small"), (100, 4), (1, 1)).check_batch(10)
    with pytest.raises(
        BadData, match=r"small has 4 training rows, but 8 of the 8.*data\.mixing=samples"
    ):
        Mixture(("big", "small"), (100, 4), (1, 1), one_source_per_batch=True).check_batch(8)


def test_summary_names_sets_that_repeat():
    line = Mixture(("big", "small"), (100, 10), (1, 1)).summary(steps=10, batch_size=10)
    assert "small 50% (10 rows, seen 5 times each: it repeats)" in line
    assert "big 50% (100 rows, seen 0.5 times each)" in line
    assert "\n" not in line
    assert "repeats" not in Mixture(("big", "small"), (100, 10), (10, 1)).summary(
        steps=33, batch_size=10
    ), "all are seen three times: epochs"
