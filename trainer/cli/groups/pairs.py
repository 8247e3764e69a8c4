"""`nearfar data pairs`."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import shared

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help=(
            "folders or files of Markdown, reStructuredText, HTML, plain text or Python; tables"
            " (CSV, JSON Lines, ...) of documents or of tickets and chats; or a folder in BEIR"
            " layout, of which only the corpus is read"
        ),
        show_default=False,
    ),
]
Folder = Annotated[
    Path,
    typer.Option(
        "-o", "--folder", metavar="FOLDER", help="the data set is written here", show_default=False
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="KIND",
        help=(
            "make only pairs of this kind: heading, sentence, definition, docstring, resolution,"
            " thread; may be repeated (default: all)"
        ),
        show_default=False,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help=(
            "tables: name the column of a role (id, title, text, question, answer, thread) if it"
            " is not recognized, e.g. --column answer=solved_by; may be repeated"
        ),
        show_default=False,
    ),
]
PassageWords = Annotated[
    int,
    typer.Option(
        "--passage-words", min=20, metavar="N", help="split sections into passages of N words"
    ),
]
DevShare = Annotated[
    float, typer.Option("--dev", metavar="SHARE", help="share of the queries for validation")
]
TestShare = Annotated[
    float, typer.Option("--test", metavar="SHARE", help="share of the queries for the test")
]
Replace = Annotated[
    bool, typer.Option("--replace", help="replace a data set that is in FOLDER already")
]


def pairs(
    sources: Sources,
    folder: Folder,
    kind: Kinds = None,
    column: Columns = None,
    passage_words: PassageWords = 180,
    dev: DevShare = 0.1,
    test: TestShare = 0.1,
    max_bad_rows_ratio: shared.MaxBadRowsRatio = 0.001,
    replace: Replace = False,
) -> None:
    """Make training pairs from documents that have no questions, and write a folder in BEIR layout.

    All pairs of a document are in one split: train, dev or test. The same documents give the same
    files.
    """
    from trainer.data.pairs.candidates import KINDS
    from trainer.data.pairs.write import PairRules, write_pairs
    from trainer.data.prepare.split import SplitRules

    result = write_pairs(
        sources,
        folder,
        PairRules(tuple(kind or KINDS), passage_words, SplitRules(dev, test)),
        columns=shared.columns_of(column),
        max_bad_rows_ratio=max_bad_rows_ratio,
        replace=replace,
    )
    for line in result.lines:
        typer.echo(line)
    typer.echo(f"{folder}: written; train on it with data.train={folder}")
