import numpy as np
import pytest
from shape_checker import WRONG_TYPES

from trainer.evaluation.significance import (
    bootstrap_interval,
    detectable_difference,
    holm,
    paired_test,
)


def test_interval_covers_the_true_mean_about_95_times_in_100():
    """Over 400 data sets of 100 skewed values; the count of misses has a standard deviation of
    about 1 %.
    """
    generator = np.random.default_rng(0)
    samples = generator.beta(0.5, 1.5, (400, 100))
    intervals = [
        bootstrap_interval(values, resamples=1000, seed=number)
        for number, values in enumerate(samples)
    ]
    covered = np.mean([low <= 0.25 <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.98
    narrow = np.mean(
        [
            low <= 0.25 <= high
            for low, high in (bootstrap_interval(values, 0.5, 1000) for values in samples)
        ]
    )
    assert 0.42 <= narrow <= 0.58


def test_p_values_are_uniform_without_a_difference():
    generator = np.random.default_rng(1)
    before, after = generator.random((2, 500, 40))
    p_values = np.array(
        [paired_test(*pair, resamples=400).p_value for pair in zip(before, after, strict=True)]
    )
    for share in (0.05, 0.25, 0.5, 0.75):
        assert abs((p_values <= share).mean() - share) < 0.06


def test_gain_on_every_query_is_significant():
    before = np.linspace(0, 0.5, 60)
    test = paired_test(before, before + 0.1)
    assert test.p_value == pytest.approx(1 / 10_001)
    assert (test.difference, test.low, test.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (test.better, test.equal, test.worse) == (60, 0, 0)


def test_p_value_equals_that_of_all_sign_patterns():
    """Differences 1, 2, 3: of the 8 patterns only +++ and --- are as far from 0, so p is near 2 /
    8.
    """
    test = paired_test(np.zeros(3), np.array([1.0, 2.0, 3.0]), resamples=20_000)
    assert test.p_value == pytest.approx(0.25, abs=0.01)


def test_exchanged_systems_give_the_negated_difference():
    before, after = np.random.default_rng(2).random((2, 50))
    there, back = paired_test(before, after), paired_test(after, before)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value, abs=0.02)
    assert (there.better, there.worse) == (back.worse, back.better)


def test_equal_systems_have_p_value_1():
    test = paired_test(np.ones(5), np.ones(5))
    assert (test.difference, test.low, test.high, test.p_value, test.equal) == (0, 0, 0, 1, 5)


def test_result_depends_on_the_seed_but_not_on_the_block_size(monkeypatch):
    values = np.random.default_rng(3).random(37)
    first = bootstrap_interval(values)
    assert bootstrap_interval(values) == first != bootstrap_interval(values, seed=1)
    monkeypatch.setattr("trainer.evaluation.significance._BLOCK_DRAWS", 1000)
    assert bootstrap_interval(values) == pytest.approx(first, abs=0.005)


def test_empty_and_unequal_values_are_refused():
    with pytest.raises(ValueError, match="no queries"):
        bootstrap_interval(np.zeros(0))
    # Where annotations are checked, the shape annotation sees it first.
    with pytest.raises((ValueError, *WRONG_TYPES)):
        paired_test(np.zeros(3), np.zeros(4))


def test_correction_equals_the_textbook_and_keeps_the_order_of_tests():
    """The example of Holm's method in R's `p.adjust`, computed by hand."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_false_alarms_of_several_comparisons_stay_below_five_percent():
    """Ten comparisons without a difference: without correction, four evaluations in ten would
    prove something.
    """
    p_values = np.random.default_rng(4).random((2000, 10))
    assert np.mean([min(row) < 0.05 for row in p_values]) > 0.35
    assert np.mean([min(holm(row)) < 0.05 for row in p_values.tolist()]) < 0.06


@pytest.mark.parametrize("tests", [1, 4])
def test_detectable_difference_is_found_four_times_in_five(tests):
    generator = np.random.default_rng(5)
    spread = generator.normal(0, 0.3, 100_000)
    zeros = np.zeros(80)
    sample = 0.3 * (spread[:80] - spread[:80].mean()) / spread[:80].std(ddof=1)
    difference = detectable_difference(zeros, sample, tests)
    changes = generator.choice(spread, (400, 80)) + difference
    are_proven = [paired_test(zeros, row, 1000).p_value < 0.05 / tests for row in changes]
    assert 0.74 <= np.mean(are_proven) <= 0.86


def test_few_queries_detect_nothing():
    changes = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert detectable_difference(np.zeros(5), changes) is None
    assert detectable_difference(np.zeros(6), np.append(changes, 0.6)) is not None
    assert detectable_difference(np.zeros(6), np.append(changes, 0.6), tests=2) is None
    assert paired_test(np.zeros(5), changes).p_value > 0.05, "all are better, and yet"
