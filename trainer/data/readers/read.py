"""`read_rows`: training rows from a file, a folder or the hub."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal

from trainer.data.readers.columns import Columns, RowMaker, is_blank, understand
from trainer.data.readers.beir import Judgement, check_ids, is_beir_folder, read_qrels, read_texts
from trainer.data.readers.hub import checked_hub_name, is_saved_folder, read_hub, read_saved_folder
from trainer.data.readers.json_lines import Record, read_json_lines
from trainer.data.readers.report import BadRow, ReadReport
from trainer.data.readers.table import read_columnar, read_delimited
from trainer.data.rows import Row, Rows, RowWriter, duplicate_pairs
from trainer.errors import BadData

Split = Literal["train", "dev", "test"]
LAYOUTS: dict[str, tuple[str, Callable[[Path], Iterator[Record | BadRow]]]] = {
    ".jsonl": ("JSON Lines", read_json_lines),
    ".json": ("JSON Lines", read_json_lines),
    ".ndjson": ("JSON Lines", read_json_lines),
    ".csv": ("CSV", lambda path: read_delimited(path, tabs=False)),
    ".tsv": ("TSV", lambda path: read_delimited(path, tabs=True)),
    ".parquet": ("Parquet", read_columnar),
    ".arrow": ("Arrow", read_columnar),
    ".feather": ("Arrow", read_columnar),
}
_COLUMNS_SEEN_IN = 100


def read_rows(
    source: str,
    columns: Mapping[str, str] | None = None,
    split: Split = "train",
    max_bad_rows_ratio: float = 0.001,
    negatives_per_query: int | None = None,
    on_bad: Callable[[BadRow], None] | None = None,
) -> Rows:
    """The rows of a file (JSON Lines, CSV, TSV, Parquet, Arrow; .gz of the first three), a BEIR
    folder, a saved data set or a hub data set.

    `split` says which part of a folder or hub data set. At most `negatives_per_query` negatives of
    each row are kept (None: all). Bad rows are set aside and counted in `.report`, and handed to
    `on_bad`. Raises BadData for a source that cannot be understood, and TooManyBadRows beyond the
    ratio.
    """
    report = ReadReport(source, on_bad=on_bad)
    folder = Path(source)
    if folder.is_dir() and is_beir_folder(folder):
        rows = _beir_rows(folder, split, report)
    else:
        records = open_records(source, split, report)
        rows = _record_rows(records, dict(columns or {}), report, negatives_per_query)
    writer = RowWriter()
    try:
        for row in rows:
            writer.add(row)
        report.check_budget(max_bad_rows_ratio)
        if not writer.count:
            raise BadData(
                f"{source}: none of its {report.rows_read} rows can be used ({_why_none(report)})."
                " Check the file with `nearfar data check`."
            )
    except BaseException:
        writer.discard()
        raise
    found = Rows(writer.finish(), report)
    report.rows_kept = len(found)
    report.duplicate_rows = duplicate_pairs(found.table)
    return found


def open_records(source: str, split: Split, report: ReadReport) -> Iterator[Record | BadRow]:
    """Records of anything but a BEIR folder. Raises BadData for what is neither there nor a hub
    name.
    """
    path = Path(source)
    if path.is_dir():
        if not is_saved_folder(path):
            raise BadData(
                f"{path} is a folder of no known layout; expected corpus.jsonl, queries.jsonl and"
                " qrels/ (BEIR), or one that `datasets` saved."
            )
        report.layout = "saved data set"
        return read_saved_folder(path, split)
    if path.exists():
        suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        if (
            suffix.lower() not in LAYOUTS
            or (path.suffix == ".gz" and suffix.lower() in (".parquet", ".arrow", ".feather"))
            or not path.is_file()
        ):
            raise BadData(
                f"{path} is of no known layout; expected a file that ends in {', '.join(LAYOUTS)}"
                " (or .jsonl.gz, .csv.gz, .tsv.gz)."
            )
        report.layout, reader = LAYOUTS[suffix.lower()]
        return reader(path)
    if any(suffix in LAYOUTS for suffix in path.suffixes) or path.is_absolute():
        raise BadData(f"{source} is not there; check the path.")
    checked_hub_name(source)
    report.layout = "hub data set"
    return read_hub(source, split)


def _record_rows(
    records: Iterator[Record | BadRow],
    wanted: dict[str, str],
    report: ReadReport,
    max_negatives: int | None,
) -> Iterator[Row]:
    """Rows of records whose columns are understood from the first hundred."""
    first: list[Record | BadRow] = []
    for item in records:
        first.append(item)
        if len(first) == _COLUMNS_SEEN_IN:
            break
    names = dict.fromkeys(
        name for item in first if isinstance(item, Record) for name in item.values
    )
    if not names:
        for item in first:
            if isinstance(item, BadRow):
                report.rows_read += 1
                report.set_aside(item)
        report.check_budget(0.0)
        raise BadData(
            f"{report.source} has no rows; give a file with at least one query and positive."
        )
    columns = understand(names, wanted, report.source)
    note_columns(report, columns, names)
    maker = RowMaker(columns, report, max_negatives)
    for item in chain(first, records):
        report.rows_read += 1
        if isinstance(item, BadRow):
            report.set_aside(item)
        else:
            yield from maker.rows(item)
    maker.finish()


def note_columns(report: ReadReport, columns: Columns, names: Mapping[str, None]) -> None:
    """Writes into the report which column plays which role and which none."""
    report.columns = columns.by_role()
    used = {name for role_names in report.columns.values() for name in role_names}
    report.ignored_columns = tuple(name for name in names if name not in used)


def _beir_rows(folder: Path, split: Split, report: ReadReport) -> Iterator[Row]:
    """One row a positive judgement; those with score 0 or less are no positives."""
    report.layout = "BEIR folder"
    judged = [judgement for judgement in read_qrels(folder, split, report) if judgement.score > 0]
    judged, queries, documents = judged_texts(folder, judged, report)
    for judgement in judged:
        query, positive = queries[judgement.query], documents[judgement.document]
        if is_blank(query) or is_blank(positive):
            report.blank_rows_dropped += 1
        else:
            yield Row(query, positive, source=judgement.source)


def judged_texts(
    folder: Path, judged: list[Judgement], report: ReadReport, whole_corpus: bool = False
) -> tuple[list[Judgement], dict[str, str], dict[str, str]]:
    """Judgements whose texts are there, and the texts of queries and documents by id."""
    before = report.bad_count
    queries = read_texts(folder, "queries.jsonl", report, {judgement.query for judgement in judged})
    between = report.bad_count
    documents = read_texts(
        folder,
        "corpus.jsonl",
        report,
        None if whole_corpus else {judgement.document for judgement in judged},
    )
    bad = {"queries.jsonl": between - before, "corpus.jsonl": report.bad_count - between}
    return check_ids(judged, queries, documents, bad, report), queries, documents


def _why_none(report: ReadReport) -> str:
    return (
        f"{report.bad_count} set aside, {report.blank_rows_dropped} blank"
        if report.rows_read
        else "it has no rows"
    )
