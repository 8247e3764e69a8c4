"""What a candidate finds and what it costs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.evaluate import evaluate_run, measured_run
from trainer.evaluation.results import Interval, SystemResult
from trainer.evaluation.systems.names import SystemName
from trainer.evaluation.systems.open import DEPTH, SystemOpener

_LATENCY_QUERIES, _WARM_UP_QUERIES, _HITS = 50, 3, 10
MEGABYTE = 1e6


@dataclass(frozen=True)
class Cost:
    """What a system costs on this machine."""

    documents_per_second: float | None
    """Speed of encoding or indexing the documents; None where they were encoded before."""
    latency_ms: float
    """Milliseconds of one search for ten documents, one query at a time: the median."""
    latency_p95_ms: float
    memory_mb: float
    """Megabytes of weights and documents in memory."""
    index_mb: float
    """Megabytes of the documents' vectors or words."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured of a candidate on all documents."""

    candidate: str
    """As the user wrote it."""
    result: SystemResult
    cost: Cost

    @property
    def quality(self) -> Interval:
        """nDCG@10 with its 95 % interval."""
        return self.result.interval()


def measure(system: SystemName, opener: SystemOpener, judged_set: RetrievalSet) -> Measurement:
    """Returns the metrics of a system on judged queries, and what it costs."""
    queries = judged_set.queries_by_id
    opened_system = opener.open(system)
    run = measured_run(opened_system.search(queries, DEPTH), judged_set)
    result = evaluate_run(run, judged_set, str(system))
    preparation = opened_system.preparation
    seconds = preparation.seconds
    (latencies,) = latencies_ms([system], opener, judged_set)
    cost = Cost(
        len(judged_set.documents) / seconds if seconds else None,
        float(np.median(latencies)),
        float(np.quantile(latencies, 0.95)),
        (preparation.weight_bytes + preparation.index_bytes) / MEGABYTE,
        preparation.index_bytes / MEGABYTE,
    )
    return Measurement(str(system), result, cost)


def latencies_ms(
    systems: Sequence[SystemName], opener: SystemOpener, judged_set: RetrievalSet
) -> list[list[float]]:
    """Returns the milliseconds of searches for ten documents, one query at a time, per system.

    The systems take turns, so that what else the machine does slows all of them alike.
    """
    opened_systems = [opener.open(system) for system in systems]
    queries = judged_set.queries[: _WARM_UP_QUERIES + _LATENCY_QUERIES]
    latencies: list[list[float]] = [[] for _ in systems]
    with opener.without_memory():
        for query in queries:
            for system, times in zip(opened_systems, latencies, strict=True):
                start = time.perf_counter()
                system.search({"query": query}, _HITS)
                times.append(1000 * (time.perf_counter() - start))
    return [times[min(_WARM_UP_QUERIES, len(times) - 1) :] for times in latencies]
