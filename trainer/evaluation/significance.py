"""How sure a mean over queries is, and whether two systems really differ."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class PairedTest:
    """What changed from one system to another, over the same queries."""

    difference: float
    """Mean of after - before."""
    low: float
    high: float
    """The 95 % bootstrap interval of the difference."""
    p_value: float
    """How often chance alone would give a difference at least as large, in either direction."""
    better: int
    equal: int
    worse: int
    """Queries on which the second system scores higher, the same, lower."""


def bootstrap_interval(
    values: Float[np.ndarray, " query"],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bounds of the mean: the percentile bootstrap over queries (Efron & Tibshirani 1993, chapter
    13).

    The queries are drawn again with replacement `resamples` times; the bounds cut off (1 -
    confidence) / 2 of those means at each end.

    >>> bootstrap_interval(np.full(50, 0.25))
    (0.25, 0.25)

    Raises ValueError without values.
    """
    if len(values) == 0:
        raise ValueError("no queries: an interval needs at least one value")
    values = values.astype(np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _DRAWS_AT_ONCE // len(values))
    for start in range(0, resamples, step):
        drawn = generator.integers(
            0, len(values), (min(step, resamples - start), len(values)), dtype=np.int32
        )
        means[start : start + step] = values[drawn].mean(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_test(
    before: Float[np.ndarray, " query"],
    after: Float[np.ndarray, " query"],
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Difference of two systems on the same queries, its bootstrap interval and the p-value of a
    randomisation test.

    If the systems were alike, each query's difference could as well have the other sign. p = (1 +
    number of random sign patterns with a mean difference at least as far from 0) / (1 + resamples)
    (Smucker, Allan & Carterette 2007), so it is never 0.

    >>> test = paired_test(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.5]))
    >>> round(test.difference, 3), test.better, test.equal, test.worse
    (0.167, 1, 1, 1)
    """
    if before.shape != after.shape:
        raise ValueError(
            f"{len(before)} values before and {len(after)} after: a paired test needs the same"
            " queries in both"
        )
    change = after.astype(np.float64) - before.astype(np.float64)
    low, high = bootstrap_interval(change, resamples=resamples, seed=seed)
    observed = abs(change.sum())
    changed = change[change != 0]
    generator = np.random.default_rng(seed)
    as_far = 0
    step = max(1, _DRAWS_AT_ONCE // max(1, len(changed)))
    for start in range(0, resamples, step):
        kept = generator.integers(0, 2, (min(step, resamples - start), len(changed)), dtype=np.int8)
        sums = 2.0 * (kept @ changed) - changed.sum()
        as_far += int((np.abs(sums) >= observed - 1e-9).sum())
    counts = [int((change > 0).sum()), int((change == 0).sum()), int((change < 0).sum())]
    return PairedTest(float(change.mean()), low, high, (as_far + 1) / (resamples + 1), *counts)
