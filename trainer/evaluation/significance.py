"""Confidence intervals of a mean over queries, and paired tests of systems."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

CERTAIN = 0.05
"""A difference counts as proven when its p-value, after Holm's correction, is below this."""

POWER = 0.8
"""The probability with which a test sees the detectable difference."""

_BLOCK_DRAWS = 1 << 22
"""Numbers drawn at a time; it bounds the memory."""


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The difference between two systems on the same queries."""

    difference: float
    """The mean of second - first."""
    low: float
    high: float
    """The bounds of the 95 % bootstrap interval of the difference."""
    p_value: float
    """The probability of a difference at least as large, in either direction, by chance alone."""
    better: int
    equal: int
    worse: int
    """The numbers of queries whose value is higher, the same, and lower with the second system."""


def bootstrap_interval(
    values: Float[np.ndarray, " query"],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the bounds of the mean by the percentile bootstrap over queries (Efron & Tibshirani
    1993, chapter 13).

    The queries are drawn with replacement `resamples` times. The bounds cut off
    (1 - confidence) / 2 of the means at each end.

    >>> bootstrap_interval(np.full(50, 0.25))
    (0.25, 0.25)

    Raises ValueError without values.
    """
    if len(values) == 0:
        raise ValueError("no queries: an interval needs at least one value")
    values = values.astype(np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BLOCK_DRAWS // len(values))
    for start in range(0, resamples, step):
        draws = generator.integers(
            0, len(values), (min(step, resamples - start), len(values)), dtype=np.int32
        )
        means[start : start + step] = values[draws].mean(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_test(
    first: Float[np.ndarray, " query"],
    second: Float[np.ndarray, " query"],
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """The difference second - first, its bootstrap interval, and the p-value of a randomisation
    test.

    If the systems were equally good, the difference of each query could just as well have the other
    sign. p = (1 + number of random sign patterns with a mean difference at least as far from 0) /
    (1 + resamples) (Smucker, Allan & Carterette 2007), so it is never 0.

    >>> test = paired_test(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.5]))
    >>> round(test.difference, 3), test.better, test.equal, test.worse
    (0.167, 1, 1, 1)
    """
    if first.shape != second.shape:
        raise ValueError(
            f"{len(first)} values of the first system and {len(second)} of the second: a paired"
            " test needs the same queries in both"
        )
    changes = second.astype(np.float64) - first.astype(np.float64)
    low, high = bootstrap_interval(changes, resamples=resamples, seed=seed)
    observed_sum = abs(changes.sum())
    nonzero = changes[changes != 0]
    generator = np.random.default_rng(seed)
    extreme_patterns = 0
    step = max(1, _BLOCK_DRAWS // max(1, len(nonzero)))
    for start in range(0, resamples, step):
        keeps_sign = generator.integers(
            0, 2, (min(step, resamples - start), len(nonzero)), dtype=np.int8
        )
        sums = 2.0 * (keeps_sign @ nonzero) - nonzero.sum()
        extreme_patterns += int((np.abs(sums) >= observed_sum - 1e-9).sum())
    counts = [int((changes > 0).sum()), int((changes == 0).sum()), int((changes < 0).sum())]
    p_value = (extreme_patterns + 1) / (resamples + 1)
    return PairedTest(float(changes.mean()), low, high, p_value, *counts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values of several tests with Holm's correction (Holm 1979), in their order.

    The smallest of m p-values is multiplied by m, the next one by m - 1, and so on. None is smaller
    than the one before it, or larger than 1. If all below 0.05 are called proven, the probability
    that one or more are so by chance is at most 0.05.

    >>> holm([0.25, 0.0625, 0.125])
    [0.25, 0.1875, 0.25]
    """
    corrected_p_values = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected_p_values[place] = largest
    return corrected_p_values


def detectable_difference(
    first: Float[np.ndarray, " query"],
    second: Float[np.ndarray, " query"],
    tests: int = 1,
    power: float = POWER,
) -> float | None:
    """Returns the smallest true difference that a paired test of these systems sees with
    probability `power`, given the spread of the differences per query (Bloom 1995).

    (z(1 - a / 2) + z(power)) * s / sqrt(queries), where z is a quantile of the normal distribution,
    s the standard deviation of the differences and a = 0.05 / `tests`, the strictest level of
    Holm's correction. None if the queries are too few for a p-value below a, whatever they give:
    the smallest p-value of a randomisation test is 2 / 2^queries.

    >>> changes = np.tile([0.0, 0.2], 50)
    >>> round(detectable_difference(np.zeros(100), changes), 4)
    0.0282
    """
    changes = second.astype(np.float64) - first.astype(np.float64)
    level = CERTAIN / tests
    if 2.0 ** (1 - len(changes)) >= level:
        return None
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
    return float(quantiles * changes.std(ddof=1) / len(changes) ** 0.5)
