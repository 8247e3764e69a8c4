"""What a selection concludes from the measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.evaluation.results import Comparison, compare_systems
from trainer.selection.candidates import Limits
from trainer.selection.measure import Cost, Measurement


@dataclass(frozen=True)
class Choice:
    """The best system, those that cannot be told apart from it, and the recommended one."""

    best: Measurement
    comparisons: tuple[Comparison, ...]
    """The paired tests of each other candidate against the best, with Holm's correction."""
    group: tuple[Measurement, ...]
    """The best and all that are not proven worse, the cheapest first."""
    efficient: tuple[Measurement, ...]
    """Those than which no other is both better and quicker."""
    recommendation: Measurement | None
    """The cheapest of those that cannot be told apart from the best within the limits; None if no
    candidate keeps them.
    """


def choose(measurements: Sequence[Measurement], limits: Limits) -> Choice:
    """Returns what follows from the measurements. The cheapest system has the lowest latency."""
    best = max(measurements, key=_quality)
    comparisons, group = _group(measurements)
    candidates_within_limits = [
        measurement for measurement in measurements if keeps(measurement.cost, limits)
    ]
    recommendation = _group(candidates_within_limits)[1][0] if candidates_within_limits else None
    efficient = tuple(
        measurement
        for measurement in sorted(measurements, key=_latency)
        if not any(
            _quality(rival) > _quality(measurement) and _latency(rival) <= _latency(measurement)
            for rival in measurements
        )
    )
    return Choice(best, comparisons, group, efficient, recommendation)


def keeps(cost: Cost, limits: Limits) -> bool:
    """Returns True if a cost is within the limits."""
    return not excess(cost, limits)


def excess(cost: Cost, limits: Limits) -> str:
    """Returns the costs that are over the limits, in words; "" if none is."""
    values = (
        (cost.latency_p95_ms, limits.latency_ms, "ms at 95 %"),
        (cost.memory_mb, limits.memory_mb, "MB"),
        (cost.index_mb, limits.index_mb, "MB for the index"),
    )
    return ", ".join(
        f"{value:,.1f} {unit}"
        for value, limit, unit in values
        if limit is not None and value > limit
    )


def _group(
    measurements: Sequence[Measurement],
) -> tuple[tuple[Comparison, ...], tuple[Measurement, ...]]:
    best = max(measurements, key=_quality)
    rivals = [measurement for measurement in measurements if measurement is not best]
    comparisons = compare_systems([(best.result, measurement.result) for measurement in rivals])
    equals = [
        measurement
        for measurement, comparison in zip(rivals, comparisons, strict=True)
        if not comparison.is_proven
    ]
    return comparisons, tuple(sorted([best, *equals], key=_latency))


def _quality(measurement: Measurement) -> float:
    return measurement.result.mean()


def _latency(measurement: Measurement) -> float:
    return measurement.cost.latency_ms
