"""`nearfar data`: prepare, pairs, split and check."""

import json
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.groups.pairs import pairs
from trainer.cli.options import shared

app = typer.Typer(no_args_is_help=True, help="Build data sets and check them.")

SetName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help=(
            "azure-cli (the data of the quickstart), or a BEIR set such as scifact, which is"
            " downloaded"
        ),
        show_default=False,
    ),
]
Folder = Annotated[
    Path,
    typer.Option("-o", "--folder", metavar="FOLDER", help="the data set is written to FOLDER/NAME"),
]
Wheel = Annotated[
    Path | None,
    typer.Option(
        "--wheel",
        metavar="FILE",
        help="azure-cli only: use this wheel of azure-cli instead of downloading it",
        show_default=False,
    ),
]
DataSource = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help=(
            "a data file, a folder in BEIR layout, a saved data set, or the name of a hub data set"
        ),
        show_default=False,
    ),
]
BadRowsFile = Annotated[
    Path | None,
    typer.Option(
        "--rejected",
        metavar="FILE",
        help="write place and reason of every bad row to this JSON Lines file",
        show_default=False,
    ),
]
PairSource = Annotated[
    str,
    typer.Argument(
        metavar="PAIRS", help="a file of pairs, or the name of a hub data set", show_default=False
    ),
]
SplitFolder = Annotated[
    Path,
    typer.Option(
        "-o", "--folder", metavar="FOLDER", help="the data set is written here", show_default=False
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="FILE",
        help=(
            "all documents that users search: a file as for `nearfar index`, or a folder in BEIR"
            " layout; without it, the corpus is the documents of the pairs"
        ),
        show_default=False,
    ),
]
DevShare = Annotated[
    float, typer.Option("--dev", metavar="SHARE", help="share of the queries for validation")
]
TestShare = Annotated[
    float, typer.Option("--test", metavar="SHARE", help="share of the queries for the test")
]
SharedDocuments = Annotated[
    bool,
    typer.Option(
        "--shared-documents", help="a document may answer queries of training and of test"
    ),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="replace a data set that is in FOLDER already")
]
AsJson = Annotated[bool, typer.Option("--json", help="print the summary as one JSON object")]


@app.command()
def prepare(name: SetName, folder: Folder = Path("data"), wheel: Wheel = None) -> None:
    """Build a known data set in BEIR layout (corpus.jsonl, queries.jsonl, qrels/).

    A data set that is already complete is kept.
    """
    from trainer.data.prepare.named_sets import prepare as prepare_set
    from trainer.data.prepare.named_sets import prepared_source

    exists = Path(name).name == name and prepared_source(folder / name) is not None
    target = prepare_set(name, folder, wheel)
    counts = (prepared_source(target) or {}).get("counts", {})
    contents = [f"{count:,} {noun.replace('_', ' ')}" for noun, count in counts.items()]
    typer.echo(f"{target}: {'already there' if exists else 'written'}: {', '.join(contents)}")


app.command()(pairs)


@app.command()
def split(
    source: PairSource,
    folder: SplitFolder,
    corpus: Corpus = None,
    dev: DevShare = 0.1,
    test: TestShare = 0.1,
    shared_documents: SharedDocuments = False,
    column: shared.ColumnNames = None,
    max_bad_rows_ratio: shared.MaxBadRowsRatio = 0.001,
    replace: Replace = False,
) -> None:
    """Split pairs into train, dev and test without leaks, and write a folder in BEIR layout.

    Queries that share an answer or are near-identical are in one split. The splits depend only on
    the texts.
    """
    from trainer.data.prepare.split import SplitRules, split_pairs

    result = split_pairs(
        source,
        folder,
        SplitRules(dev, test, shared_documents),
        corpus=corpus,
        columns=shared.columns_of(column, source),
        max_bad_rows_ratio=max_bad_rows_ratio,
        replace=replace,
    )
    for line in result.lines:
        typer.echo(line)
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{folder}: written; train on it with data.train={folder}")


@app.command()
def check(
    source: DataSource,
    column: shared.ColumnNames = None,
    max_bad_rows_ratio: shared.MaxBadRowsRatio = 0.001,
    rejected_file: BadRowsFile = None,
    as_json: AsJson = False,
) -> None:
    """Summarize a data set: columns, counts, lengths, duplicates, bad rows, and leaks between
    splits.
    """
    from rich.console import Console

    from trainer.data.summary.summarize import bad_rows_file, summarize_data
    from trainer.data.summary.text import print_summary

    columns = shared.columns_of(column, source)
    with bad_rows_file(rejected_file) as on_bad:
        summary = summarize_data(source, columns, max_bad_rows_ratio, on_bad)
    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=2))
    else:
        print_summary(summary, Console(highlight=False))
    raise typer.Exit(summary.exit_code)
