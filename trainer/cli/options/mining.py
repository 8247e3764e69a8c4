"""Options of `nearfar mine`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
            "model of any kind, e.g. a cross-encoder, that scores the candidates instead of the"
            " model that searches"
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
        help="use candidates from the first N ranks, which do not count known positives",
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
        help=(
            "discard candidates that score above the positive's score minus this value (default:"
            " off)"
        ),
        show_default=False,
    ),
]
RelativeMargin = Annotated[
    float | None,
    typer.Option(
        "--relative-margin",
        metavar="SHARE",
        help="like --margin, as a share of the positive's score from 0 to 1 (default: off)",
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
        help="further documents to search: a file as for `nearfar index`, or a BEIR folder",
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
    bool, typer.Option("--replace", help="delete the files of another job in the folder")
]
