"""Reads documents from folders, files and tables."""

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from trainer.data.documents.document import DocumentSection, SourceDocument, one_line
from trainer.data.documents.html_pages import read_html
from trainer.data.documents.markdown import read_markdown
from trainer.data.documents.plain_text import read_plain_text
from trainer.data.documents.python_code import read_python
from trainer.data.documents.restructured_text import read_restructured_text
from trainer.data.documents.table import check_columns, read_document_table
from trainer.data.readers.beir import is_beir_folder
from trainer.data.readers.json_lines import MAX_LINE_BYTES
from trainer.data.readers.read import layout_of
from trainer.data.readers.report import BadRow, ReadReport
from trainer.errors import BadData
from trainer.progress import count_items
from trainer.storage.near_paths import missing_path

SECTION_READERS: dict[str, Callable[[str], list[DocumentSection]]] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".rst": read_restructured_text,
    ".html": read_html,
    ".htm": read_html,
    ".txt": read_plain_text,
}
"""Suffix of a file to the function that returns its sections; Python files have functions."""
_FOLDERS_WITHOUT_DOCUMENTS = {"__pycache__", "node_modules", "site-packages"}
_CHARSET = re.compile(rb"<meta[^>]*charset=[\"']?([\w-]+)", re.IGNORECASE)
_BYTES_WITH_CHARSET = 2048


class _Unreadable(ValueError):
    """A file that cannot be read, with the reason and details."""


def read_documents(
    sources: Sequence[str], columns: Mapping[str, str], max_bad_rows_ratio: float
) -> tuple[list[SourceDocument], list[ReadReport]]:
    """Returns the documents of all sources, in order, and a report per source.

    A source is a folder or file of Markdown, reStructuredText, HTML, plain text or Python, a table
    (see `read_document_table`), or a folder in BEIR layout, of which only the corpus is read. Files
    of a folder that cannot be read are set aside. Raises BadData for a source that cannot be read
    or if no document has text, and TooManyBadRows for a table.
    """
    documents: list[SourceDocument] = []
    reports = []
    for source in sources:
        report = ReadReport(source)
        reports.append(report)
        prefix = f"{Path(source).name}/" if len(sources) > 1 else ""
        items = _read_source(Path(source), columns, report)
        for document in count_items(items, f"reading {source}", "documents"):
            name = one_line(prefix + document.name)
            documents.append(SourceDocument(name, document.sections, document.pairs))
        if report.layout != "files":
            report.check_budget(max_bad_rows_ratio)
    check_columns(columns, reports)
    if not documents:
        reasons = "; ".join(f"{report.source}: {_reason(report)}" for report in reports)
        raise BadData(
            f"no document has any usable text ({reasons}). Give Markdown, reStructuredText, HTML,"
            " text or Python files, or a table with a column `text`."
        )
    return documents, reports


def _reason(report: ReadReport) -> str:
    reasons = [f"{count:,} {reason}" for reason, count in report.bad.items()]
    blank = report.blank_rows_dropped
    return ", ".join([*reasons, *([f"{blank:,} blank"] if blank else []), *report.notes]) or "empty"


def _read_source(
    path: Path, columns: Mapping[str, str], report: ReadReport
) -> Iterator[SourceDocument]:
    if is_beir_folder(path):
        path = next(file for file in sorted(path.glob("corpus.jsonl*")) if file.is_file())
    if path.is_dir():
        return _read_files(path, report)
    if not path.is_file():
        raise BadData(missing_path(path, "; name a folder or file of documents"))
    if layout_of(path) is not None:
        return read_document_table(path, columns, report)
    if path.suffix.lower() not in (*SECTION_READERS, ".py"):
        raise BadData(
            f"{path} has a suffix that is not known; known are"
            f" {', '.join((*SECTION_READERS, '.py'))}, and tables: .jsonl, .csv, .tsv, .parquet"
        )
    report.layout = "one file"
    report.rows_read += 1
    try:
        return iter(list(_read_file(path, path.name, report)))
    except _Unreadable as error:
        raise BadData(f"{path} cannot be read: {': '.join(error.args)}") from error


def _read_files(folder: Path, report: ReadReport) -> Iterator[SourceDocument]:
    """Yields the documents of all files below a folder, in the order of their paths."""
    report.layout = "files"
    other_types: Counter[str] = Counter()
    names = {path: path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    for path, name in sorted(names.items(), key=lambda item: item[1]):
        parents = name.split("/")[:-1]
        if any(part[0] == "." or part in _FOLDERS_WITHOUT_DOCUMENTS for part in parents):
            continue
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix.lower() not in (*SECTION_READERS, ".py"):
            other_types[path.suffix.lower() or "without a suffix"] += 1
            continue
        report.rows_read += 1
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise _Unreadable("a link that leads out of the folder")
            yield from _read_file(path, name, report)
        except _Unreadable as error:
            report.set_aside(BadRow(name, *error.args))
    if other_types:
        listing = ", ".join(f"{count:,} {suffix}" for suffix, count in other_types.most_common(8))
        report.notes.append(f"files of other types, not read: {listing}")


def _read_file(path: Path, name: str, report: ReadReport) -> Iterator[SourceDocument]:
    text = _decode(path)
    if path.suffix.lower() == ".py":
        try:
            document = SourceDocument(name, pairs=read_python(text))
        except (SyntaxError, ValueError, RecursionError) as error:
            raise _Unreadable("not Python 3", str(error)) from error
    else:
        document = SourceDocument(name, SECTION_READERS[path.suffix.lower()](text))
    if document.sections or document.pairs:
        report.rows_kept += 1
        yield document
    else:
        report.blank_rows_dropped += 1


def _decode(path: Path) -> str:
    """Returns the text of a file: UTF-8, UTF-16 with a mark, or what an HTML page declares."""
    try:
        if path.stat().st_size > MAX_LINE_BYTES:
            raise _Unreadable(f"larger than {MAX_LINE_BYTES // 2**20} MB")
        content = path.read_bytes()
    except OSError as error:
        raise _Unreadable("cannot be opened", error.strerror or str(error)) from error
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif path.suffix.lower() in (".html", ".htm") and (
        charset := _CHARSET.search(content[:_BYTES_WITH_CHARSET])
    ):
        encoding = charset[1].decode("ascii").replace("utf-8", "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        detail = f"byte 0x{content[error.start]:02x} at byte {error.start}"
        raise _Unreadable(f"not {encoding.removesuffix('-sig').upper()}", detail) from error
    except LookupError as error:
        raise _Unreadable("unknown encoding", encoding) from error
    if "\0" in text:
        raise _Unreadable("NUL byte (not a text)")
    return text.replace("\r\n", "\n").replace("\r", "\n")
