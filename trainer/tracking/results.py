"""The results of a run or an evaluation, as trackers show them: a summary, tables and files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.evaluation.results import MAIN_METRIC, Evaluation, Selection
from trainer.evaluation.verdict import mean_change, verdict
from trainer.report.query_changes import QueryChange, query_changes
from trainer.report.read import read_run
from trainer.runtime.attempts import read_json_object
from trainer.tracking.tracked_run import Results, ResultTable, SummaryValue

MOST_ROWS = 1_000
"""The number of rows of a table."""
_COLUMNS = ("query", "relevant document", "rank before", "rank after", f"change of {MAIN_METRIC}")


def results_of_run(folder: Path) -> Results:
    """Returns the results in a run folder, as far as there are any. Raises BadFolder."""
    run = read_run(folder)
    summary = {
        **summary_of_selection(run.selection),
        **summary_of_evaluation(run.evaluation),
        "status": str(run.status.get("status") or "unknown"),
    }
    if (words := verdict(run.evaluation, run.selection)) is not None:
        summary["verdict"] = str(words)
    tables = changed_queries(run.evaluation) if run.evaluation is not None else {}
    reports = sorted(folder.glob("refresh/step-*/report.json"))
    tables |= mined_negatives(reports[-1]) if reports else {}
    files = {"report": folder / "report.html", "model": folder / "model"}
    return Results(summary, tables, {name: path for name, path in files.items() if path.exists()})


def summary_of_selection(selection: Selection | None) -> dict[str, SummaryValue]:
    """Returns the validation scores that decided which weights were saved."""
    if selection is None:
        return {}
    share = 0.0 if selection.base_won else selection.share
    summary: dict[str, SummaryValue] = {"best/step": selection.best_step, "best/share": share}
    score = selection.best_score if selection.share_score is None else selection.share_score
    if score is not None:
        summary[f"best/validation_{MAIN_METRIC}"] = score
    if selection.base_score is not None:
        summary[f"best/base_validation_{MAIN_METRIC}"] = selection.base_score
    return summary


def summary_of_evaluation(evaluation: Evaluation | None) -> dict[str, SummaryValue]:
    """Returns the means of all systems with the interval of the main metric, and the paired tests.

    The names are `test/base/ndcg@10`, `test/base/ndcg@10_low`,
    `test/fine-tuned/difference_to_base`, `test/fine-tuned/p_value_to_base` and so on. Those of a
    general collection begin with `general/NAME` instead of `test`, and those of queries that are
    images with `test/images`.
    """
    if evaluation is None:
        return {}
    summary = _summary_of_set(evaluation, evaluation.split)
    for collection in evaluation.general:
        name = collection.set_name.removesuffix(f" {collection.split}")
        summary |= _summary_of_set(collection, f"general/{name}")
    if evaluation.image_queries is not None:
        summary |= _summary_of_set(evaluation.image_queries, f"{evaluation.split}/images")
    if (change := mean_change(evaluation)) is not None:
        summary["general/mean_change"] = change
    return summary


def _summary_of_set(evaluation: Evaluation, prefix: str) -> dict[str, SummaryValue]:
    summary = dict[str, SummaryValue]()
    for system in evaluation.systems:
        for metric in system.metrics:
            summary[f"{prefix}/{system.name}/{metric}"] = system.mean(metric)
        if MAIN_METRIC in system.metrics:
            interval = system.interval()
            summary[f"{prefix}/{system.name}/{MAIN_METRIC}_low"] = interval.low
            summary[f"{prefix}/{system.name}/{MAIN_METRIC}_high"] = interval.high
    for comparison in evaluation.comparisons:
        test, baseline = comparison.test, comparison.baseline
        difference = f"{prefix}/{comparison.system}/difference_to_{baseline}"
        summary[difference] = test.difference
        summary[f"{difference}_low"] = test.low
        summary[f"{difference}_high"] = test.high
        p_value = f"{prefix}/{comparison.system}/p_value_to_{baseline}"
        summary[p_value] = comparison.corrected_p_value
    if evaluation.limitation:
        summary[f"{prefix}/limitation"] = evaluation.limitation
    if evaluation.leaked_queries is not None:
        summary[f"{prefix}/leaked_queries"] = evaluation.leaked_queries
    return summary


def changed_queries(evaluation: Evaluation) -> dict[str, ResultTable]:
    """Returns the queries that the last system answers better and worse than the one before it,
    with the largest change first.
    """
    changes = query_changes(evaluation)
    return {
        "gained_queries": _table(change for change in changes if change.difference > 1e-9),
        "lost_queries": _table(change for change in changes if change.difference < -1e-9),
    }


def mined_negatives(report: Path) -> dict[str, ResultTable]:
    """Returns the tables of a report of mining: suspected false negatives, the most similar first,
    and a sample of the mined negatives, if it has one.
    """
    content = read_json_object(report)
    lines: Sequence[Mapping[str, Any]] = content.get("worst", [])
    columns = list(dict.fromkeys(name for line in lines for name in line))
    rows = [[_value(line.get(name)) for name in columns] for line in lines[:MOST_ROWS]]
    tables = {"suspected_false_negatives": ResultTable(columns, rows)} if rows else {}
    sample = [
        (line["query"], negative)
        for line in content.get("sample", [])
        for negative in line["negatives"]
    ]
    if sample:
        tables["mined_negatives"] = ResultTable(("query", "negative"), sample)
    return tables


def _table(changes: Iterable[QueryChange]) -> ResultTable:
    largest_first = sorted(changes, key=lambda change: -abs(change.difference))
    rows = [
        (
            change.query,
            change.document,
            change.rank_before,
            change.rank_after,
            round(change.difference, 4),
        )
        for change in largest_first[:MOST_ROWS]
    ]
    return ResultTable(_COLUMNS, rows)


def _value(value: Any) -> SummaryValue | None:
    return value if isinstance(value, int | float | str | None) else str(value)
