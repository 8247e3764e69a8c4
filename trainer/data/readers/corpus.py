"""Documents to search, read one after another from a file, in bounded memory."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainer.batch import identity
from trainer.data.readers.beir import is_beir_folder, text_id
from trainer.data.readers.columns import is_blank, text_problem
from trainer.data.readers.json_lines import NumberedLine, Record, read_json_lines, read_lines
from trainer.data.readers.read import layout_of
from trainer.data.readers.report import BadRow, ReadReport, type_name
from trainer.errors import BadData
from trainer.images.reference import is_inline
from trainer.progress import count_items

_TEXT_FIELDS = ("text", "document", "positive", "passage", "contents")


@dataclass(frozen=True, slots=True)
class Document:
    """One document. Models encode its title and text, separated by a space, as in BEIR.

    Of a document with an image, models of images encode that alone.
    """

    id: str
    title: str
    text: str
    image: str = ""
    """The reference of an image (`trainer.images.reference`); "" for a text, and for an image of
    which an index keeps no bytes.
    """

    @property
    def full_text(self) -> str:
        """Title and text, separated by a space.

        >>> Document("1", "az disk", "Manage disks.").full_text
        'az disk Manage disks.'
        >>> Document("2", "", "No title.").full_text
        'No title.'
        """
        return f"{self.title} {self.text}" if self.title.strip() else self.text

    @property
    def content(self) -> str:
        """What a model encodes: the reference of the image, or title and text."""
        return self.image or self.full_text

    def without_bytes(self) -> "Document":
        """Returns the document without the bytes of an image; a path stays."""
        return replace(self, image="") if is_inline(self.image) else self

    def fields(self) -> dict[str, str]:
        """Returns the values of all fields, without that of an image that is not there."""
        values = asdict(self)
        return values if self.image else {name: values[name] for name in ("id", "title", "text")}


def read_document_ids(
    source: str, report: ReadReport, max_bad_rows_ratio: float = 0.001
) -> dict[str, str]:
    """Returns the id of each distinct text of a corpus (see `read_corpus`).

    Of documents with equal texts, the first one counts. Raises BadData if there is no document.
    """
    ids: dict[str, str] = {}
    documents = read_corpus(Path(source), report, max_bad_rows_ratio)
    for document in count_items(documents, f"reading {source}", "documents"):
        ids.setdefault(document.full_text, document.id)
    if not ids:
        raise BadData(f"{source} has no documents; give a file with at least one.")
    return ids


def read_corpus(
    path: Path, report: ReadReport, max_bad_rows_ratio: float = 0.001, id_prefix: str = ""
) -> Iterator[Document]:
    """Yields the documents of a file.

    It may be a BEIR folder, of which corpus.jsonl is read; a JSON Lines, CSV, TSV, Parquet or Arrow
    file with a column `text` or `document`; or a .txt file with one document per line. Ids are
    `_id` or `id`, else `id_prefix` and the number of the line or row. Blank documents and repeated
    ids are left out; `report` counts them.

    Raises BadData for a file that cannot be read, and TooManyBadRows at the end when too many rows
    could not be used.
    """
    path = path / "corpus.jsonl" if path.is_dir() and is_beir_folder(path) else path
    if path.is_dir():
        raise BadData(
            f"{path} is a folder without corpus.jsonl; give a file, or a folder in BEIR layout. A"
            " folder of pictures needs a model of images"
        )
    path = (
        path.with_name(f"{path.name}.gz")
        if not path.exists() and path.with_name(f"{path.name}.gz").is_file()
        else path
    )
    seen_identities: set[int] = set()
    for document in _documents(path, report, id_prefix):
        if is_blank(document.full_text):
            report.blank_rows_dropped += 1
        elif identity(document.id) in seen_identities:
            report.duplicate_ids += 1
        else:
            seen_identities.add(identity(document.id))
            report.rows_kept += 1
            yield document
    report.check_budget(max_bad_rows_ratio, is_corpus=True)


def _documents(path: Path, report: ReadReport, id_prefix: str) -> Iterator[Document]:
    if path.name.removesuffix(".gz").endswith(".txt"):
        return _plain_documents(path, report, id_prefix)
    layout = layout_of(path)
    records = read_json_lines(path) if layout is None else layout.read(path)
    return _record_documents(records, report, id_prefix)


def _plain_documents(path: Path, report: ReadReport, id_prefix: str) -> Iterator[Document]:
    for line in read_lines(path):
        report.rows_read += 1
        if isinstance(line, NumberedLine):
            yield Document(
                f"{id_prefix}{line.number}",
                "",
                report.truncate(line.text, f"{path.name}:{line.number}"),
            )
        else:
            report.set_aside(line)


def _record_documents(
    records: Iterator[Record | BadRow], report: ReadReport, id_prefix: str
) -> Iterator[Document]:
    for record in records:
        report.rows_read += 1
        if isinstance(record, BadRow):
            report.set_aside(record)
            continue
        fields = {
            "id": record_id(record.values, record.source, id_prefix),
            "title": record.values.get("title") or "",
            "text": _text(record.values),
        }
        wrong = next((name for name, value in fields.items() if not isinstance(value, str)), None)
        if wrong:
            reason = f"the field {wrong!r} is {type_name(fields[wrong])}, expected a text"
            names = ", ".join(map(repr, list(record.values)[:10]))
            report.set_aside(BadRow(record.source, reason, f"its fields: {names}"))
        elif problem := next(filter(None, map(text_problem, fields.values())), None):
            report.set_aside(BadRow(record.source, problem))
        else:
            yield Document(
                fields["id"], fields["title"], report.truncate(fields["text"], record.source)
            )


def record_id(values: dict[str, Any], source: str, prefix: str) -> Any:
    """Returns the value of `_id` or `id`; without one, `prefix` and the number of the row."""
    key = text_id(values)
    return prefix + source.rpartition(":")[2] if key is None else key


def _text(values: dict[str, Any]) -> Any:
    """Returns the first field that may be the text; empty for a record with only a title."""
    text = next((values[name] for name in _TEXT_FIELDS if name in values), None)
    return "" if text is None and isinstance(values.get("title"), str) else text
