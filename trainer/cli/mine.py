"""`nearfar mine`: hard negatives for training pairs."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.cli import options, terminal

SearchModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="folder or name of the model that searches", show_default=False
    ),
]
Pairs = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="training pairs: a data file, a folder in BEIR layout or a hub data set",
        show_default=False,
    ),
]
OutFolder = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="FOLDER", help="folder of the negatives", show_default=False
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="MODEL",
        help=(
            "model of any kind, e.g. a cross-encoder, that scores the candidates in place of the"
            " searching model"
        ),
        show_default=False,
    ),
]
Negatives = Annotated[
    int,
    typer.Option(
        "--negatives", min=0, metavar="N", help="negatives per query from the model's search"
    ),
]
Bm25Negatives = Annotated[
    int,
    typer.Option(
        "--bm25-negatives",
        min=0,
        metavar="N",
        help="negatives per query from BM25, a search by words",
    ),
]
RandomNegatives = Annotated[
    int,
    typer.Option(
        "--random-negatives",
        min=0,
        metavar="N",
        help="negatives per query drawn from all documents",
    ),
]
Depth = Annotated[
    int,
    typer.Option(
        "--depth",
        min=1,
        metavar="N",
        help="take candidates from the first N ranks; known positives have no rank",
    ),
]
SkipTop = Annotated[
    int, typer.Option("--skip-top", min=0, metavar="N", help="skip the first N ranks")
]
Pick = Annotated[
    Literal["top", "random"],
    typer.Option(
        "--pick",
        help="which of the remaining candidates become negatives: the best, or random ones",
    ),
]
PercentOfPositive = Annotated[
    float,
    typer.Option(
        "--percent-of-positive",
        metavar="PERCENT",
        help=(
            "discard candidates that score above this percentage of the positive's score; 0: no"
            " limit"
        ),
    ),
]
Margin = Annotated[
    float | None,
    typer.Option(
        "--margin",
        metavar="SCORE",
        help="discard candidates whose score is less than this below the positive's (default: off)",
        show_default=False,
    ),
]
RelativeMargin = Annotated[
    float | None,
    typer.Option(
        "--relative-margin",
        metavar="SHARE",
        help="as --margin, but a share of the positive's score, 0 to 1 (default: off)",
        show_default=False,
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        metavar="SCORE",
        help="discard candidates below this score (default: off)",
        show_default=False,
    ),
]
MaxScore = Annotated[
    float | None,
    typer.Option(
        "--max-score",
        metavar="SCORE",
        help="discard candidates above this score (default: off)",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="seed of random choices")]
FurtherCorpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="CORPUS",
        help=("further documents to search: JSON Lines, a .txt file, or a folder in BEIR layout"),
        show_default=False,
    ),
]
Report = Annotated[
    bool,
    typer.Option(
        "--report",
        help="also write report.html: counts, filters and suspected false negatives",
    ),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="delete what another job left in the folder")
]


def mine(
    model: SearchModel,
    data: Pairs,
    out: OutFolder,
    teacher: Teacher = None,
    negatives: Negatives = 7,
    bm25_negatives: Bm25Negatives = 0,
    random_negatives: RandomNegatives = 0,
    depth: Depth = 100,
    skip_top: SkipTop = 0,
    pick: Pick = "top",
    percent_of_positive: PercentOfPositive = 95.0,
    margin: Margin = None,
    relative_margin: RelativeMargin = None,
    min_score: MinScore = None,
    max_score: MaxScore = None,
    seed: Seed = 0,
    split: options.SplitName = "train",
    column: options.ColumnNames = None,
    corpus: FurtherCorpus = None,
    report: Report = False,
    replace: Replace = False,
    max_bad_rows_ratio: options.MaxBadRowsRatio = 0.001,
    precision: options.PrecisionName = "fp32",
) -> None:
    """Find hard negatives for training pairs and discard likely right answers. A job that was
    stopped continues.
    """
    from trainer.mining.choose import Options

    columns = options.columns_of(column)
    wanted = Options(
        negatives=negatives,
        bm25_negatives=bm25_negatives,
        random_negatives=random_negatives,
        depth=depth,
        skip_top=skip_top,
        pick=pick,
        percent_of_positive=percent_of_positive,
        margin=margin,
        relative_margin=relative_margin,
        min_score=min_score,
        max_score=max_score,
        seed=seed,
    )
    from trainer.mining.job import PairSource, mine_negatives
    from trainer.strategies.machine.own_rank import is_first_rank

    result = mine_negatives(
        model,
        PairSource(data, split, columns, corpus, max_bad_rows_ratio),
        out,
        wanted,
        teacher=teacher,
        precision=precision,
        replace=replace,
        tell=terminal.tell,
        progress=terminal.progress_of_phases(),
    )
    if is_first_rank(os.environ):
        print(result)
        if report:
            from trainer.report.mining_page import write_mining_page

            print(f"report: {write_mining_page(result.folder / 'report.json')}")
