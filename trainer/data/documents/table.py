"""Documents, tickets and chats in tables: CSV, TSV, JSON Lines, Parquet and Arrow files."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data.documents.document import KnownPair, SourceDocument, one_line
from trainer.data.documents.plain_text import read_plain_text
from trainer.data.readers.columns import is_blank, likely_column, text_problem
from trainer.data.readers.json_lines import Record
from trainer.data.readers.read import layout_of
from trainer.data.readers.report import BadRow, ReadReport, type_name
from trainer.errors import BadData

DOCUMENT_ROLES: dict[str, tuple[str, ...]] = {
    "id": ("_id", "id", "ticket_id", "key", "url"),
    "title": ("title", "heading", "headline", "name"),
    "question": ("question", "query", "subject", "issue", "problem", "summary"),
    "answer": ("answer", "resolution", "solution", "accepted_answer", "reply", "response"),
    "thread": ("thread", "messages", "conversation", "chat", "comments"),
    "text": ("text", "body", "content", "contents", "document", "passage", "description"),
}
"""Role to the column names that are recognised, the preferred ones first, in any case."""
_MESSAGE_TEXTS = ("content", "text", "body", "message")
_MESSAGE_AUTHORS = ("role", "author", "sender", "from", "user")
_RECORDS_FOR_COLUMNS = 100


class Message(NamedTuple):
    """A message of a thread; the author is "" if it is not known."""

    author: str
    text: str


class _BadValue(Exception):
    """A field that cannot be used, with the reason."""


def read_document_table(
    path: Path, columns: Mapping[str, str], report: ReadReport
) -> Iterator[SourceDocument]:
    """Yields the documents of a table.

    A record with an answer or a thread is a ticket: its question (else title, else the first
    message) is a query. Any other record is a document with a title and a text. `columns` maps
    roles to column names that are not recognised. Raises BadData without a usable column.
    """
    layout = layout_of(path)
    assert layout is not None
    report.layout = layout.name
    records = layout.read(path)
    first = list(islice(records, _RECORDS_FOR_COLUMNS))
    names = dict.fromkeys(name for item in first if isinstance(item, Record) for name in item[1])
    roles = _assign(list(names), columns, report)
    for record in chain(first, records):
        report.rows_read += 1
        if isinstance(record, BadRow):
            report.set_aside(record)
            continue
        try:
            document = _document(record, roles, report)
        except _BadValue as error:
            report.set_aside(BadRow(record.source, str(error)))
            continue
        if document is None:
            report.blank_rows_dropped += 1
        else:
            report.rows_kept += 1
            yield document


def check_columns(columns: Mapping[str, str], reports: Sequence[ReadReport]) -> None:
    """Raises BadData for a role that does not exist, or a column that no table has."""
    for role, name in columns.items():
        if role not in DOCUMENT_ROLES:
            raise BadData(
                f"there is no role {role!r} for a column of documents; roles are"
                f" {', '.join(DOCUMENT_ROLES)}."
            )
        if not any(report.columns.get(role) == (name,) for report in reports):
            names = [
                column
                for report in reports
                for column in (*sum(report.columns.values(), ()), *report.ignored_columns)
            ]
            listing = ", ".join(map(repr, names[:20])) or "no table"
            raise BadData(f"no source has a column {name!r} for the {role}; there is {listing}.")


def _assign(names: list[str], columns: Mapping[str, str], report: ReadReport) -> dict[str, str]:
    """Returns the column of each role, and stores it in the report."""
    listing = ", ".join(map(repr, names[:20])) or "none"
    roles = {
        role: name for role, name in columns.items() if role in DOCUMENT_ROLES and name in names
    }
    free = {name.strip().casefold(): name for name in names if name not in roles.values()}
    for role, recognised_names in DOCUMENT_ROLES.items():
        column = next((free[name] for name in recognised_names if name in free), None)
        if column is not None:
            roles.setdefault(role, column)
    if not roles.keys() & {"text", "answer", "thread"}:
        if {"query", "positive"} <= set(names):
            raise BadData(f"{report.source} has pairs already; `nearfar data split` splits them")
        raise BadData(
            f"{report.source} has no column for a text, an answer or a thread (recognised:"
            f" {', '.join(DOCUMENT_ROLES['text'])}; {', '.join(DOCUMENT_ROLES['answer'])};"
            f" {', '.join(DOCUMENT_ROLES['thread'])}); its columns: {listing}. Name it, e.g."
            f" --column text={likely_column(names)}"
        )
    report.columns = {role: (name,) for role, name in roles.items()}
    report.ignored_columns = tuple(name for name in names if name not in roles.values())
    return roles


def _document(
    record: Record, roles: Mapping[str, str], report: ReadReport
) -> SourceDocument | None:
    """Returns the document of a record, or None if it has no text."""
    key = record.values.get(roles.get("id", ""))
    name = one_line(f"{key}") if isinstance(key, str | int) else ""
    text, title, question, answer = (
        report.truncate(_text(record, roles.get(role)), record.source)
        for role in ("text", "title", "question", "answer")
    )
    messages = _messages(record, roles.get("thread"))
    name = name or record.source
    if not answer and not messages:
        sections = read_plain_text(text, title or question)
        return SourceDocument(name, sections) if sections else None
    query = question or title or text
    if not query and messages:
        query = messages[0].text
        messages = (
            messages[1:]
            if not messages[0].author
            else [message for message in messages if message.author != messages[0].author]
        )
    kind = "resolution" if answer else "thread"
    reply = answer or "\n\n".join(message.text for message in messages if message.text != query)
    if is_blank(reply):
        return None
    return SourceDocument(name, pairs=[KnownPair(kind, one_line(query), reply.strip())])


def _text(record: Record, column: str | None) -> str:
    value = record.values.get(column) if column is not None else None
    return _valid(value, f"the field {column!r}")


def _valid(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _BadValue(f"{name} is {type_name(value)}, expected a text")
    if problem := text_problem(value):
        raise _BadValue(problem)
    return "" if is_blank(value) else value


def _messages(record: Record, column: str | None) -> list[Message]:
    """Returns the messages of a thread: a text, a list of texts, or a list of objects."""
    value = record.values.get(column) if column is not None else None
    name = f"the field {column!r}"
    messages = []
    for item in value if isinstance(value, list) else [value]:
        author, text = "", item
        if isinstance(item, dict):
            author = str(_first(item, _MESSAGE_AUTHORS) or "")
            text = _first(item, _MESSAGE_TEXTS)
        if message := _valid(text, f"a message of {name}"):
            messages.append(Message(author, message))
    return messages


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if name in values), None)
