"""`nearfar mine`: finds hard negatives for training pairs."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.cli import terminal
from trainer.cli.options import mining, shared, tracking

if TYPE_CHECKING:
    from trainer.mining.job import MiningResult
    from trainer.recipe.schema.trackers import Tracker


def mine(
    model: mining.SearchModel,
    data: mining.Pairs,
    out: mining.OutFolder,
    teacher: mining.Teacher = None,
    negatives: mining.Negatives = 7,
    bm25_negatives: mining.Bm25Negatives = 0,
    random_negatives: mining.RandomNegatives = 0,
    depth: mining.Depth = 100,
    skip_top: mining.SkipTop = 0,
    pick: mining.Pick = "top",
    percent_of_positive: mining.PercentOfPositive = 95.0,
    margin: mining.Margin = None,
    relative_margin: mining.RelativeMargin = None,
    min_score: mining.MinScore = None,
    max_score: mining.MaxScore = None,
    seed: mining.Seed = 0,
    split: shared.SplitName = "train",
    column: shared.ColumnNames = None,
    corpus: mining.FurtherCorpus = None,
    report: mining.Report = False,
    replace: mining.Replace = False,
    max_bad_rows_ratio: shared.MaxBadRowsRatio = 0.001,
    precision: shared.PrecisionName = "fp32",
    tracker: tracking.Trackers = None,
) -> None:
    """Find hard negatives that are probably not relevant. A job that was stopped continues."""
    with terminal.loading_libraries():
        from trainer.mining.choose import MiningRules
        from trainer.mining.job import PairSource, mine_negatives
        from trainer.tracking.settings import read_trackers

    trackers = read_trackers(tracker or [])
    options = MiningRules(
        negatives=negatives, bm25_negatives=bm25_negatives, random_negatives=random_negatives,
        depth=depth, skip_top=skip_top, pick=pick, percent_of_positive=percent_of_positive,
        margin=margin, relative_margin=relative_margin, min_score=min_score, max_score=max_score,
        seed=seed,
    )  # fmt: skip
    columns = shared.columns_of(column, data)
    result = mine_negatives(
        model, PairSource(data, split, columns, corpus, max_bad_rows_ratio), out, options,
        teacher=teacher, precision=precision, replace=replace, tell=terminal.tell,
    )  # fmt: skip
    _show(result, report, trackers)


def _show(result: "MiningResult", report: bool, trackers: "Sequence[Tracker]") -> None:
    from trainer.strategies.machine.own_rank import is_first_rank
    from trainer.tracking.jobs import log_mining

    if is_first_rank(os.environ):
        print(result)
        if trackers:
            log_mining(trackers, result.folder)
        if report:
            from trainer.report.mining_page import write_mining_page

            print(f"report: {write_mining_page(result.folder / 'report.json')}")
