"""Successive halving: many candidates on few queries, few on all (Jamieson & Talwalkar 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.evaluation.results import compare_systems
from trainer.selection.candidates import Limits
from trainer.selection.choice import excess, keeps
from trainer.selection.measure import Measurement

SHARES = (1 / 9, 1 / 3)
"""The shares of the queries and documents in the rounds before the last one, which has all."""
LEAST_QUERIES = 50
"""A round is left out if it has not at least so many queries more than the one before."""


@dataclass(frozen=True)
class Drop:
    """A candidate that was not measured on all queries, and why."""

    candidate: str
    queries: int
    """The size of the sample. 0: it was not measured."""
    quality: float | None
    """Its nDCG@10 on the sample."""
    reason: str

    def __str__(self) -> str:
        if self.quality is None:
            return f"dropped before it was measured: {self.candidate}, {self.reason}"
        return (
            f"dropped after {self.queries:,} queries: {self.candidate}, nDCG@10 {self.quality:.3f}"
            f" on the sample, {self.reason}"
        )


def drop(measurements: Sequence[Measurement], limits: Limits) -> list[Drop]:
    """Returns the candidates that are dropped after a round.

    Those that cost more than the limits are dropped if others do not. Of these, the better half
    goes on, and at least two. Of the rest, one goes on if it is quicker or smaller than all of the
    better half, unless it is proven worse than the best one.
    """
    contenders = [measurement for measurement in measurements if keeps(measurement.cost, limits)]
    contenders = sorted(
        contenders or measurements, key=lambda measurement: -measurement.result.mean()
    )
    drops = [
        _drop(measurement, f"over the limits: {excess(measurement.cost, limits)}")
        for measurement in measurements
        if measurement not in contenders
    ]
    count = max(2, (len(contenders) + 1) // 2)
    better_half, rest = contenders[:count], contenders[count:]
    comparisons = compare_systems(
        [(contenders[0].result, measurement.result) for measurement in rest]
    )
    for measurement, comparison in zip(rest, comparisons, strict=True):
        if comparison.is_proven or not _is_cheaper(measurement, better_half):
            value, best = comparison.corrected_p_value, contenders[0].candidate
            reason = f"{-comparison.test.difference:.3f} below {best} (p = {value:.3f})"
            drops.append(_drop(measurement, reason))
    return drops


def _is_cheaper(measurement: Measurement, rivals: Sequence[Measurement]) -> bool:
    latency, memory = measurement.cost.latency_ms, measurement.cost.memory_mb
    is_quicker = latency < min(rival.cost.latency_ms for rival in rivals)
    return is_quicker or memory < min(rival.cost.memory_mb for rival in rivals)


def _drop(measurement: Measurement, reason: str) -> Drop:
    result = measurement.result
    return Drop(measurement.candidate, len(result.query_ids), result.mean(), reason)
