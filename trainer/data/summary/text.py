"""A summary of a data set as a person reads it on a terminal. Texts of the data are escaped."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.data.readers.report import ReadReport
from trainer.data.summary.document_shortage import ADVICE
from trainer.data.summary.summarize import DataSummary, Spread
from trainer.storage.visible import visible


def print_summary(summary: DataSummary, console: Console) -> None:
    """Prints columns, counts, lengths, an example, and what is wrong."""

    def show(lines: Iterator[Text]) -> None:
        for line in lines:
            console.print(line, soft_wrap=True)

    show(_columns(summary.report))
    console.print(_counts(summary))
    console.print(_lengths(summary))
    show(_kinds(summary) if summary.kinds else _example(summary))
    show(_dropped_texts(summary.report))
    show(_bad_rows(summary.report))
    show(_leaks(summary))
    show(_shortages(summary))
    show(_verdict(summary))


def _columns(report: ReadReport) -> Iterator[Text]:
    yield Text(f"{visible(report.source)}: {report.layout}", "bold")
    for role, names in report.columns.items():
        yield Text(f"  {role:<9} from column {', '.join(visible(name, 60) for name in names)}")
    if report.ignored_columns:
        listing = ", ".join(visible(name, 60) for name in report.ignored_columns[:20])
        yield Text(f"  not used: {listing}")


def _counts(summary: DataSummary) -> Table:
    table = Table(box=None, header_style="dim")
    for heading in (
        *("split", "pairs", "queries", "documents"),
        *("positives per query", "negatives per pair", "scores"),
    ):
        table.add_column(heading)
    for part in summary.parts:
        scores = "none" if part.labels is None else f"{part.labels[0]:g} to {part.labels[1]:g}"
        table.add_row(
            part.name,
            *(f"{count:,}" for count in (part.pairs, part.queries, part.answering_documents)),
            _range(part.positives_per_query),
            _range(part.negatives_per_pair),
            scores,
        )
    return table


def _range(spread: Spread) -> str:
    if spread.min == spread.max:
        return str(spread.max or "none")
    return f"{spread.min} to {spread.max}"


def _lengths(summary: DataSummary) -> Table:
    table = Table(
        "length in words", "shortest", "median", "95 %", "longest", box=None, header_style="dim"
    )

    def add(name: str, spread: Spread) -> None:
        counts = (spread.min, spread.median, spread.p95, spread.max)
        table.add_row(name, *(f"{count:,}" for count in counts))

    for part in summary.parts:
        add(f"{part.name}: queries", part.query_words)
        add(f"{part.name}: positives", part.document_words)
    if summary.corpus_words:
        add(f"corpus ({summary.corpus_documents:,} documents)", summary.corpus_words)
    return table


def _example(summary: DataSummary) -> Iterator[Text]:
    pair = summary.parts[0].example
    yield Text(
        f"First pair\n  query     {visible(pair['query'], 100)}"
        f"\n  positive  {visible(pair['positive'], 100)}"
    )


def _kinds(summary: DataSummary) -> Iterator[Text]:
    for kind in summary.kinds:
        yield Text(f"{visible(kind.kind, 60)}: {kind.pairs:,} pairs")
        yield from map(Text, kind.lines)


def _dropped_texts(report: ReadReport) -> Iterator[Text]:
    counts = {
        "blank rows dropped": report.blank_rows_dropped,
        "blank negatives or further positives dropped": report.blank_texts_dropped,
        "pairs that occur more than once (kept)": report.duplicate_rows,
        "positives listed as their own negative (dropped)": report.own_negatives_dropped,
        "ids that occur more than once (the first counts)": report.duplicate_ids,
        "texts that have two ids (kept)": report.same_text_under_two_ids,
        "texts cut because they are very long": report.truncated_texts,
    }
    for name, count in counts.items():
        if count:
            yield Text(f"  {count:,} {name}")
    yield from (Text(f"  {visible(note, 200)}") for note in report.notes)


def _bad_rows(report: ReadReport) -> Iterator[Text]:
    for reason, count in report.bad.items():
        yield Text(f"Bad rows, {visible(reason, 100)}: {count:,}", "yellow")
        for bad in [bad for bad in report.bad_rows if bad.reason == reason][:5]:
            detail = f": {visible(bad.detail, 200)}" if bad.detail else ""
            yield Text(f"  {visible(bad.source, 200)}{detail}")


def _leaks(summary: DataSummary) -> Iterator[Text]:
    for leak in summary.leaks:
        first, second = leak.splits
        yield Text(f"Leak: {leak.count:,} of {second} have {leak.kind} in {first}", "yellow")
        for example in leak.examples:
            yield Text(f"  {visible(example, 100)}")


def _shortages(summary: DataSummary) -> Iterator[Text]:
    for part in summary.parts:
        if part.name in ("train", "all") and (problem := part.shortage):
            yield Text(f"To train on: {problem}. {ADVICE}.", "yellow")


def _verdict(summary: DataSummary) -> Iterator[Text]:
    report = summary.report
    if summary.problem:
        yield Text(visible(summary.problem.splitlines()[0]), "red")
    else:
        yield Text(
            f"Ready: {report.rows_kept:,} pairs from {report.rows_read:,} lines,"
            f" {report.bad_count:,} set aside.",
            "green",
        )
