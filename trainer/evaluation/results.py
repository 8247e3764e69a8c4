"""Results of systems on a set of judged queries, and their comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from trainer.evaluation.significance import (
    CERTAIN,
    PairedTest,
    bootstrap_interval,
    detectable_difference,
    holm,
    paired_test,
)
from trainer.storage.visible import visible

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet

MAIN_METRIC = "ndcg@10"
"""The metric by which systems are compared."""

BASE, BM25, FINE_TUNED = "base", "BM25", "fine-tuned"
"""Names of the systems that a run compares."""

_TEXT = 120


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over queries and the bounds of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SystemResult:
    """The metrics of one system per query, and its first ten documents per query."""

    name: str
    query_ids: tuple[str, ...]
    metrics: dict[str, Float64[np.ndarray, " query"]]
    top: dict[str, list[tuple[str, float]]]
    summary: dict[str, Interval] = field(default_factory=dict)
    """The interval of each metric, if the file holds it."""
    note: str = ""
    """A remark on the figures, such as how weights were chosen."""
    figures: dict[str, float] = field(default_factory=dict)
    """Further means by name, such as active terms per document. The file has them in the note."""

    def mean(self, metric: str = MAIN_METRIC) -> float:
        """Returns the mean of a metric over all queries."""
        return float(self.metrics[metric].mean())

    def interval(self, metric: str = MAIN_METRIC) -> Interval:
        """Returns the mean of a metric over all queries with its 95 % bootstrap interval."""
        if metric in self.summary:
            return self.summary[metric]
        low, high = bootstrap_interval(self.metrics[metric])
        return Interval(self.mean(metric), low, high)


@dataclass(frozen=True, slots=True)
class Failure:
    """A system that could not be measured, and why."""

    system: str
    problem: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test of two systems by one metric."""

    baseline: str
    system: str
    """The name of the system that is compared with the baseline."""
    metric: str
    test: PairedTest
    corrected_p_value: float
    """The p-value after Holm's correction for all comparisons of the evaluation."""
    detectable: float | None
    """The smallest difference that the test would have seen (`detectable_difference`), if known."""

    @property
    def is_proven(self) -> bool:
        """True when the difference, in either direction, is proven."""
        return self.corrected_p_value < CERTAIN


@dataclass(frozen=True, slots=True)
class Selection:
    """The validation scores that decided which weights a run saved as `model/`."""

    base_score: float | None
    """The score before the first step; None when that model cannot be chosen."""
    best_score: float | None
    """The best score of trained weights; None when none were validated."""
    best_step: int
    """The number of optimizer steps at the best score."""
    limitation: str = ""
    """Why the scores are too high (`RetrievalSet.limitation`)."""
    share: float = 1.0
    """The share of the change by training that was saved, if the base model has not won."""
    share_score: float | None = None
    """The validation score with this share; None for the whole change."""

    @property
    def base_won(self) -> bool:
        """True when `model/` holds the weights from before training."""
        if self.best_score is None:
            return True
        return self.base_score is not None and self.best_score <= self.base_score


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """Everything measured on one set: the content of `evaluation.json`. It prints as a table."""

    set_name: str
    split: str
    documents: int
    systems: tuple[SystemResult, ...]
    comparisons: tuple[Comparison, ...]
    queries: dict[str, str]
    texts: dict[str, str]
    leaked_queries: int | None = None
    """The number of measured queries that were also training queries; None: unknown."""
    selection: Selection | None = None
    """How the weights of the last system were chosen; None: unknown."""
    limitation: str = ""
    """Why the figures are too high (`RetrievalSet.limitation`)."""
    failures: tuple[Failure, ...] = ()
    """The systems that could not be measured."""
    general: "tuple[Evaluation, ...]" = ()
    """Base model and saved model on each general collection (`data.general`)."""
    image_queries: "Evaluation | None" = None
    """The systems that hold images, on the queries that are images; None if there are none."""

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(filter(None, [*lines, *self._remarks()]))

    def _repr_html_(self) -> str:
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self._rows())
        table = f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
        return table + "".join(f"<p>{escape(remark)}</p>" for remark in self._remarks())

    def _remarks(self) -> list[str]:
        """Returns what belongs to the table: its limitation, notes and failures."""
        notes = [f"{system.name}: {system.note}" for system in self.systems if system.note]
        failures = [
            f"{failure.system} was not measured: {failure.problem}" for failure in self.failures
        ]
        return [visible(text) for text in (self.limitation, *notes, *failures) if text]

    def _rows(self) -> list[list[str]]:
        """Returns the cells of a table: one row per system, one column per metric."""
        if not self.systems:
            return [[self.set_name]]
        metrics = list(self.systems[-1].metrics)
        rows = [[visible(self.set_name, 60), *metrics]]
        for system in self.systems:
            means = (f"{system.mean(metric):.3f}" for metric in metrics)
            rows.append([visible(system.name, 60), *means])
        return rows


def compare(
    retrieval_set: "RetrievalSet",
    split: str,
    systems: Sequence[SystemResult],
    metric: str = MAIN_METRIC,
    leaked_queries: int | None = None,
    selection: Selection | None = None,
    comparisons: tuple[Comparison, ...] | None = None,
) -> Evaluation:
    """Returns an evaluation that compares the last system with each other system.

    `comparisons` are the tests of these systems, if they have been made.
    """
    names = [system.name for system in systems]
    if len(names) != len(dict.fromkeys(names)):
        raise ValueError(f"two systems have the same name ({', '.join(names)}); give each its own")
    *baselines, system = systems
    if comparisons is None:
        comparisons = compare_systems([(baseline, system) for baseline in baselines], metric)
    texts = retrieval_set.documents_by_id
    top = {document for result in systems for hits in result.top.values() for document, _ in hits}
    queries = retrieval_set.queries_by_id
    shown_documents = retrieval_set.shown_documents
    return Evaluation(
        retrieval_set.name,
        split,
        len(texts),
        tuple(systems),
        comparisons,
        {query: queries[query] for query in system.query_ids},
        {document: shown_documents[document][:_TEXT] for document in texts if document in top},
        leaked_queries,
        selection,
        retrieval_set.limitation,
    )


def compare_collections(
    collections: Sequence[tuple["RetrievalSet", Sequence[SystemResult]]],
) -> tuple[Evaluation, ...]:
    """Returns an evaluation per collection of one or two systems, with Holm's correction over all
    collections.
    """
    pairs = [(systems[0], systems[1]) for _, systems in collections if len(systems) > 1]
    tests = iter(compare_systems(pairs))
    return tuple(
        compare(collection, "test", systems, comparisons=tuple(next(tests) for _ in systems[1:]))
        for collection, systems in collections
    )


def compare_systems(
    pairs: Sequence[tuple[SystemResult, SystemResult]], metric: str = MAIN_METRIC
) -> tuple[Comparison, ...]:
    """Returns the paired tests of pairs (baseline, system), with Holm's correction over all."""
    tests = [paired_test(first.metrics[metric], second.metrics[metric]) for first, second in pairs]
    corrected_p_values = holm([test.p_value for test in tests])
    return tuple(
        Comparison(
            first.name,
            second.name,
            metric,
            test,
            p_value,
            detectable_difference(first.metrics[metric], second.metrics[metric], len(tests)),
        )
        for (first, second), test, p_value in zip(pairs, tests, corrected_p_values, strict=True)
    )
