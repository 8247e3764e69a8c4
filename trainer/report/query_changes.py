"""The change that training made for each test query."""

from dataclasses import dataclass

from trainer.evaluation.results import MAIN_METRIC, Evaluation, SystemResult

MOST_CHANGES = 8
"""Of the queries that became better, and of those that became worse, as many are shown."""


@dataclass(frozen=True, slots=True)
class QueryChange:
    """One query before and after training.

    A rank is that of the first relevant document, or None if it is not among the first ten.
    """

    query_id: str
    query: str
    document: str
    rank_before: int | None
    rank_after: int | None
    difference: float
    first_before: str
    first_after: str
    document_ids: tuple[str, str, str] = ("", "", "")
    """The ids of `document`, `first_before` and `first_after`; empty for none."""


def query_changes(evaluation: Evaluation) -> list[QueryChange]:
    """Returns the change of every query between the last two systems, in the order of the file.

    It is empty if there are no two systems with the main metric.
    """
    pair = evaluation.systems[-2:]
    if len(pair) < 2 or any(MAIN_METRIC not in system.metrics for system in pair):
        return []
    base, trained_model = pair
    ranks = [_ranks(system) for system in pair]
    differences = (trained_model.metrics[MAIN_METRIC] - base.metrics[MAIN_METRIC]).tolist()
    return [
        _change(evaluation, query, (rank_before, rank_after), difference)
        for query, rank_before, rank_after, difference in zip(
            trained_model.query_ids, *ranks, differences, strict=True
        )
    ]


def _change(
    evaluation: Evaluation, query: str, ranks: tuple[int | None, int | None], difference: float
) -> QueryChange:
    tops = [
        [document for document, _ in system.top.get(query, ())]
        for system in evaluation.systems[-2:]
    ]
    relevant = next(
        (top[rank - 1] for top, rank in zip(tops, ranks, strict=True) if rank and rank <= len(top)),
        "",
    )
    first = [top[0] if top else "" for top in tops]
    ids = (relevant, first[0], first[1])
    document, *first_texts = (evaluation.texts.get(id_, id_) for id_ in ids)
    text = evaluation.queries.get(query, query)
    first_before, first_after = first_texts
    return QueryChange(query, text, document, *ranks, difference, first_before, first_after, ids)


def largest_changes(
    changes: list[QueryChange],
) -> tuple[list[QueryChange], list[QueryChange]]:
    """Returns the queries that became better, and those that became worse, the largest change
    first.
    """
    better = [change for change in changes if change.difference > 1e-9]
    worse = [change for change in changes if change.difference < -1e-9]
    return (
        sorted(better, key=lambda change: -change.difference),
        sorted(worse, key=lambda change: change.difference),
    )


def _ranks(system: SystemResult) -> list[int | None]:
    """Returns the rank of the first relevant document, which is 1 / MRR@10 of a single query."""
    if "mrr@10" not in system.metrics:
        return [None] * len(system.query_ids)
    return [round(1 / value) if value > 0 else None for value in system.metrics["mrr@10"].tolist()]
