"""`nearfar data prepare` and `nearfar data check`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.data.check import DataSummary, Spread

app = typer.Typer(no_args_is_help=True, help="Build data sets and look at them.")


@app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            help=(
                "azure-cli (the quickstart's), or a BEIR set such as scifact where there is a"
                " network"
            )
        ),
    ],
    folder: Annotated[
        Path, typer.Option("--folder", "-o", help="the set is written to FOLDER/NAME")
    ] = Path("data"),
    wheel: Annotated[
        Path | None, typer.Option(help="azure-cli only: a wheel that was downloaded before")
    ] = None,
) -> None:
    """Build a named data set in BEIR layout (corpus.jsonl, queries.jsonl, qrels/)."""
    from trainer.data.prepare.named_sets import prepare as build
    from trainer.data.prepare.named_sets import prepared_source

    there = Path(name).name == name and prepared_source(folder / name) is not None
    target = build(name, folder, wheel)
    counts = (prepared_source(target) or {}).get("counts", {})
    said = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items())
    typer.echo(f"{target}: {'already there' if there else 'written'}: {said}")


@app.command()
def check(
    source: Annotated[
        str,
        typer.Argument(
            help=(
                "a data file, a folder in BEIR layout, a saved data set or the name of a hub"
                " data set"
            )
        ),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=NAME where a column is not recognised, e.g. --column query=title"),
    ] = None,
    max_bad_rows_ratio: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="exit with 87 when more rows are bad than this share"),
    ] = 0.001,
    rejected: Annotated[
        Path | None,
        typer.Option(help="write every bad row's place and reason to this file, as JSON Lines"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print everything as one JSON object")
    ] = False,
) -> None:
    """Say what was understood of a data set: columns, counts, lengths, duplicates, bad rows, leaks
    between splits.
    """
    from dataclasses import asdict

    from rich.console import Console

    from trainer.data.check import summarize_data
    from trainer.data.readers.report import BadRow
    from trainer.errors import BadRecipe

    columns = dict(pair.partition("=")[::2] for pair in column or ())
    if not all(columns.values()):
        raise BadRecipe("--column wants ROLE=NAME, e.g. --column query=title.")
    bad_rows: list[BadRow] = []
    try:
        findings = summarize_data(
            source, columns, max_bad_rows_ratio, bad_rows.append if rejected else None
        )
    finally:
        if rejected:
            rejected.write_text(
                "".join(json.dumps(asdict(bad)) + "\n" for bad in bad_rows), encoding="utf-8"
            )
    if as_json:
        typer.echo(json.dumps(findings.to_json(), indent=2))
    else:
        _show(findings, Console(highlight=False))
    raise typer.Exit(findings.exit_code)


def _show(findings: "DataSummary", console: "Console") -> None:
    """The findings as a page for people; texts of the data are escaped."""
    from rich.table import Table
    from rich.text import Text

    from trainer.storage.visible import visible

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    report = findings.report
    say(f"{visible(report.source)}: {report.layout}", "bold")
    for role, names in report.columns.items():
        say(f"  {role:<9} from column {', '.join(visible(name, 60) for name in names)}")
    if report.ignored_columns:
        say(f"  not used: {', '.join(visible(name, 60) for name in report.ignored_columns[:20])}")
    table = Table(
        "split",
        "pairs",
        "queries",
        "documents",
        "positives a query",
        "negatives a pair",
        "scores",
        box=None,
        header_style="dim",
    )
    for part in findings.parts:
        positives, negatives = (
            _range(spread) for spread in (part.positives_per_query, part.negatives_per_pair)
        )
        scores = "none" if part.labels is None else f"{part.labels[0]:g} to {part.labels[1]:g}"
        counts = (f"{count:,}" for count in (part.pairs, part.queries, part.answering_documents))
        table.add_row(part.name, *counts, positives, negatives, scores)
    console.print(table)
    _show_lengths(findings, console)
    first = findings.parts[0].example
    say(
        f"First pair\n  query     {visible(first['query'], 100)}\n  positive "
        f" {visible(first['positive'], 100)}"
    )
    _show_problems(findings, say)


def _range(spread: "Spread") -> str:
    if spread.min == spread.max:
        return str(spread.max or "none")
    return f"{spread.min} to {spread.max}"


def _show_lengths(findings: "DataSummary", console: "Console") -> None:
    from rich.table import Table

    table = Table(
        "length in words", "shortest", "median", "95 %", "longest", box=None, header_style="dim"
    )

    def add(name: str, spread: "Spread") -> None:
        table.add_row(
            name, *(f"{count:,}" for count in (spread.min, spread.median, spread.p95, spread.max))
        )

    for part in findings.parts:
        add(f"{part.name}: queries", part.query_words)
        add(f"{part.name}: positives", part.document_words)
    if findings.corpus_words:
        add(f"corpus ({findings.corpus_documents:,} documents)", findings.corpus_words)
    console.print(table)


def _show_problems(findings: "DataSummary", say) -> None:  # type: ignore[no-untyped-def]
    """What was dropped, set aside or leaks, and whether a run could use this data."""
    from trainer.storage.visible import visible

    report = findings.report
    counted = {
        "blank rows dropped": report.blank_rows_dropped,
        "blank negatives or further positives dropped": report.blank_texts_dropped,
        "pairs that occur more than once (kept)": report.duplicate_rows,
        "positives listed as their own negative (dropped)": report.own_negatives_dropped,
        "ids that occur more than once (the first counts)": report.duplicate_ids,
        "texts that stand under two ids (kept)": report.same_text_under_two_ids,
        "texts cut because they are very long": report.truncated_texts,
    }
    for what, count in counted.items():
        if count:
            say(f"  {count:,} {what}")
    for reason, count in report.bad.items():
        say(f"Bad rows, {visible(reason, 100)}: {count:,}", "yellow")
        for bad in [bad for bad in report.bad_rows if bad.reason == reason][:5]:
            say(
                f"  {visible(bad.source, 200)}"
                + (f": {visible(bad.detail, 200)}" if bad.detail else "")
            )
    for leak in findings.leaks:
        say(
            f"Leak: {leak.count:,} of {leak.splits[1]} have {leak.kind} in {leak.splits[0]}",
            "yellow",
        )
        for example in leak.examples:
            say(f"  {visible(example, 100)}")
    if findings.problem:
        say(visible(findings.problem.splitlines()[0]), "red")
    else:
        say(
            f"Ready: {report.rows_kept:,} pairs from {report.rows_read:,} lines,"
            f" {report.bad_count:,} set aside.",
            "green",
        )
