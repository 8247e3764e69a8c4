"""The change that training made for each test query."""

from dataclasses import dataclass

from trainer.evaluation.results import MAIN_METRIC, Evaluation, SystemResult


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
    texts = [evaluation.texts.get(document, document) for document in (relevant, *first)]
    return QueryChange(
        query, evaluation.queries.get(query, query), texts[0], *ranks, difference, *texts[1:]
    )


def _ranks(system: SystemResult) -> list[int | None]:
    """Returns the rank of the first relevant document, which is 1 / MRR@10 of a single query."""
    if "mrr@10" not in system.metrics:
        return [None] * len(system.query_ids)
    return [round(1 / value) if value > 0 else None for value in system.metrics["mrr@10"].tolist()]
