"""`read_rows`: reads training rows from a file, a folder or the hub, in any layout."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NamedTuple

from trainer.data.readers.beir import (
    Judgement,
    beir_splits,
    is_beir_folder,
    judgements_with_texts,
    read_texts,
)
from trainer.data.readers.columns import Columns, RowMaker, assign_roles, is_blank
from trainer.data.readers.hub import check_hub_name, is_saved_folder, read_hub, read_saved_folder
from trainer.data.readers.image_folder import (
    image_folder_rows,
    is_image_folder,
    judgements_in_words,
    training_file,
)
from trainer.data.readers.image_rows import ImageColumns, ImageRowMaker, assign_image_roles
from trainer.data.readers.json_lines import Record, read_json_lines
from trainer.data.readers.mined import check_mined_file
from trainer.data.readers.report import BadRow, ReadReport
from trainer.data.readers.table import read_columnar, read_delimited
from trainer.data.rows import Row, Rows, RowWriter, count_duplicate_pairs, map_table
from trainer.errors import BadData
from trainer.progress import count_items
from trainer.storage.near_paths import missing_path

Split = Literal["train", "dev", "test"]


class FileLayout(NamedTuple):
    """The name of a file layout, and the function that yields the records of such a file."""

    name: str
    read: Callable[[Path], Iterator[Record | BadRow]]


LAYOUTS = {
    ".jsonl": FileLayout("JSON Lines", read_json_lines),
    ".json": FileLayout("JSON Lines", read_json_lines),
    ".ndjson": FileLayout("JSON Lines", read_json_lines),
    ".csv": FileLayout("CSV", lambda path: read_delimited(path, tabs=False)),
    ".tsv": FileLayout("TSV", lambda path: read_delimited(path, tabs=True)),
    ".parquet": FileLayout("Parquet", read_columnar),
    ".arrow": FileLayout("Arrow", read_columnar),
    ".feather": FileLayout("Arrow", read_columnar),
}
_RECORDS_FOR_COLUMNS = 100
"""So many first records are searched for column names."""


def read_rows(
    source: str,
    columns: Mapping[str, str] | None = None,
    split: Split = "train",
    max_bad_rows_ratio: float = 0.001,
    negatives_per_query: int | None = None,
    on_bad: Callable[[BadRow], None] | None = None,
    has_images: bool = False,
) -> Rows:
    """Reads the rows of a file, a BEIR folder, a saved data set or a hub data set.

    Files are JSON Lines, CSV, TSV (each may be a .gz), Parquet or Arrow.

    Args:
        source: path, or name on the hub.
        columns: role to column name, for columns that are not recognised by name.
        split: the part of a folder or hub data set.
        max_bad_rows_ratio: the largest share of bad rows (0 to 1). Bad rows are set aside and
            counted in `.report`.
        negatives_per_query: the largest number of negatives per row; None keeps all.
        on_bad: called with each bad row.
        has_images: the positives are images (`trainer.data.readers.image_rows`).

    Raises BadData for a source that cannot be read, and TooManyBadRows.
    """
    with tempfile.TemporaryDirectory(prefix="nearfar-rows-") as folder:
        path = Path(folder) / "rows.arrow"
        report = write_rows(
            path,
            source,
            columns,
            split,
            max_bad_rows_ratio,
            negatives_per_query,
            on_bad,
            has_images,
        )
        return Rows(map_table(path), report)


def write_rows(
    path: Path,
    source: str,
    columns: Mapping[str, str] | None,
    split: Split,
    max_bad_rows_ratio: float,
    negatives_per_query: int | None,
    on_bad: Callable[[BadRow], None] | None = None,
    has_images: bool = False,
) -> ReadReport:
    """Writes the rows of a source to an Arrow file, in bounded memory; see `read_rows`."""
    report = ReadReport(source, on_bad=on_bad)
    if has_images:
        rows = _image_rows(source, split, dict(columns or {}), report)
    elif is_beir_folder(Path(source)):
        rows = _beir_rows(Path(source), split, report)
    else:
        records = _open_records(source, split, report)
        rows = _record_rows(records, dict(columns or {}), report, negatives_per_query)
    with RowWriter(path) as writer:
        for row in count_items(rows, f"reading {source}", "rows"):
            writer.add(row)
        report.check_budget(max_bad_rows_ratio)
        if not writer.count:
            raise BadData(
                f"{source}: none of its {report.rows_read} rows can be used ({_reason(report)})."
                " Check the file with `nearfar data check`."
            )
    report.rows_kept = writer.count
    report.duplicate_rows = count_duplicate_pairs(map_table(path))
    return report


def has_known_layout(path: Path) -> bool:
    """Returns True for a file or folder here that is of a layout that can be read."""
    if path.is_dir():
        return is_beir_folder(path) or is_image_folder(path) or is_saved_folder(path)
    return path.is_file() and layout_of(path) is not None


def layout_of(path: Path) -> FileLayout | None:
    """Returns the layout that the suffix of a file tells, or None if there is none."""
    if path.suffix != ".gz":
        return LAYOUTS.get(path.suffix.lower())
    suffix = Path(path.stem).suffix.lower()
    return None if suffix in (".parquet", ".arrow", ".feather") else LAYOUTS.get(suffix)


def _open_records(source: str, split: Split, report: ReadReport) -> Iterator[Record | BadRow]:
    """Yields the records of a source that is not a BEIR folder.

    Raises BadData for a source that neither exists nor can be the name of a hub data set.
    """
    path = Path(source)
    if path.is_dir():
        if not is_saved_folder(path):
            kind = "judged images, not texts" if is_image_folder(path) else "no known layout"
            raise BadData(
                f"{path} is a folder of {kind}; expected a folder with corpus.jsonl (corpus.parquet"
                " of images), queries.jsonl and qrels/ (BEIR), or one that `datasets` saved."
            )
        report.layout = "saved data set"
        return read_saved_folder(path, split)
    if path.exists():
        if (layout := layout_of(path)) is None:
            raise BadData(
                f"{path} is of no known layout; expected a file that ends in {', '.join(LAYOUTS)}"
                " (or .jsonl.gz, .csv.gz, .tsv.gz)."
            )
        check_mined_file(path)
        report.layout = layout.name
        return layout.read(path)
    if any(suffix in LAYOUTS for suffix in path.suffixes) or path.is_absolute():
        raise BadData(missing_path(source))
    check_hub_name(source)
    report.layout = "hub data set"
    return read_hub(source, split)


def _record_rows(
    records: Iterator[Record | BadRow],
    columns_by_role: dict[str, str],
    report: ReadReport,
    max_negatives: int | None,
) -> Iterator[Row]:
    """Yields the rows of records. The first records determine the columns."""
    first_records, names = _first_records(records, report)
    columns = assign_roles(names, columns_by_role, report.source)
    _note_columns(report, columns, names)
    maker = RowMaker(columns, report, max_negatives)
    yield from _made_rows(chain(first_records, records), maker, report)


def _made_rows(
    records: Iterable[Record | BadRow], maker: RowMaker | ImageRowMaker, report: ReadReport
) -> Iterator[Row]:
    """Yields the rows of good records, and sets bad ones aside."""
    for record in records:
        report.rows_read += 1
        if isinstance(record, BadRow):
            report.set_aside(record)
        else:
            yield from maker.rows(record)


def _first_records(
    records: Iterator[Record | BadRow], report: ReadReport
) -> tuple[list[Record | BadRow], dict[str, None]]:
    """Returns the first records and the names of their columns. Raises BadData without any."""
    first_records = list(islice(records, _RECORDS_FOR_COLUMNS))
    names = dict.fromkeys(
        name for record in first_records if isinstance(record, Record) for name in record.values
    )
    if not names:
        for record in first_records:
            if isinstance(record, BadRow):
                report.rows_read += 1
                report.set_aside(record)
        report.check_budget(0.0)
        raise BadData(
            f"{report.source} has no rows; give a file with at least one query and positive."
        )
    return first_records, names


def _image_rows(
    source: str, split: Split, columns_by_role: dict[str, str], report: ReadReport
) -> Iterator[Row]:
    """Yields the rows of captions and images."""
    path = Path(source)
    if is_image_folder(path):
        pairs = training_file(path) if split == "train" and split not in beir_splits(path) else None
        if pairs is None:
            yield from image_folder_rows(path, split, report)
            return
        path = pairs
    records = _open_records(str(path), split, report)
    first_records, names = _first_records(records, report)
    columns = assign_image_roles(names, columns_by_role, report.source)
    _note_columns(report, columns, names)
    maker = ImageRowMaker(columns, report, path.parent)
    yield from _made_rows(chain(first_records, records), maker, report)


def _note_columns(
    report: ReadReport, columns: Columns | ImageColumns, names: Mapping[str, None]
) -> None:
    """Writes into the report which role each column has, and which columns have none."""
    report.columns = columns.by_role()
    used_names = {name for role_names in report.columns.values() for name in role_names}
    report.ignored_columns = tuple(name for name in names if name not in used_names)


def _beir_rows(folder: Path, split: Split, report: ReadReport) -> Iterator[Row]:
    """Yields one row per positive judgement, which has a score above 0."""
    report.layout = "BEIR folder"
    judgements = judgements_in_words(folder, split, report)
    positives = [judgement for judgement in judgements if judgement.score > 0]
    yield from judged_rows(*judged_texts(folder, positives, report), report)


def judged_rows(
    judgements: Iterable[Judgement],
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    report: ReadReport,
) -> Iterator[Row]:
    """Yields one row per judgement, without blank rows, which `report` counts."""
    for judgement in judgements:
        query, positive = queries[judgement.query], documents[judgement.document]
        if is_blank(query) or is_blank(positive):
            report.blank_rows_dropped += 1
        else:
            yield Row(query, positive, source=judgement.source)


def judged_texts(
    folder: Path, judgements: list[Judgement], report: ReadReport, whole_corpus: bool = False
) -> tuple[list[Judgement], dict[str, str], dict[str, str]]:
    """Returns the judgements that have both texts, and the texts of queries and documents by id."""
    bad_before = report.bad_count
    queries = read_texts(
        folder, "queries.jsonl", report, {judgement.query for judgement in judgements}
    )
    bad_queries = report.bad_count - bad_before
    documents = read_texts(
        folder,
        "corpus.jsonl",
        report,
        None if whole_corpus else {judgement.document for judgement in judgements},
    )
    bad_documents = report.bad_count - bad_before - bad_queries
    bad_lines = {"queries.jsonl": bad_queries, "corpus.jsonl": bad_documents}
    complete = judgements_with_texts(judgements, queries, documents, bad_lines, report)
    return complete, queries, documents


def _reason(report: ReadReport) -> str:
    return (
        f"{report.bad_count} set aside, {report.blank_rows_dropped} blank"
        if report.rows_read
        else "it has no rows"
    )
