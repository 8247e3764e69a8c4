"""Assigns the columns of a table to roles, and turns records into rows."""

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.readers.json_lines import Record
from trainer.data.readers.report import BadRow, ReadReport, type_name
from trainer.data.rows import Row
from trainer.errors import BadData

ROLES: dict[str, tuple[str, ...]] = {
    "query": ("query", "anchor", "question", "sentence1"),
    "positive": (
        "positive",
        "pos",
        "document",
        "answer",
        "passage",
        "text",
        "sentence2",
        "positive_passages",
    ),
    "negative": ("negative", "negatives", "neg", "negative_passages"),
    "score": ("score", "scores", "label", "labels"),
}
"""Role to the column names that are recognised, the preferred ones first, in any case; negative_1,
negative_2, ... are negatives too.
"""
_ID_NAMES = ("_id", "id", "key", "nr", "no", "number", "url")
"""Names of columns that identify a row, and have no text to train on."""
_NUMBERED_NEGATIVE = re.compile(r"negative_?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """The names of the columns that have each role."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    score: str | None = None

    def by_role(self) -> dict[str, tuple[str, ...]]:
        """Returns the column names of each role, without the roles that no column has."""
        roles = {
            "query": (self.query,),
            "positive": (self.positive,),
            "negative": self.negatives,
            "score": (self.score,) if self.score else (),
        }
        return {role: names for role, names in roles.items() if names}


def assign_roles(names: Iterable[str], columns_by_role: Mapping[str, str], source: str) -> Columns:
    """Returns the columns among `names` that have each role.

    `columns_by_role` (of `data.columns`) takes precedence over the recognised names. Raises BadData
    when one of its columns does not exist, or when no column is the query or the positive.

    >>> assign_roles(["Question", "answer", "negative_2", "negative_1", "id"], {}, "x.csv")
    Columns(query='Question', positive='answer', negatives=('negative_1', 'negative_2'), score=None)
    """
    columns = list(dict.fromkeys(names))
    listing = ", ".join(map(repr, columns[:20])) or "none"
    for role, name in columns_by_role.items():
        if role not in ROLES:
            raise BadData(f"there is no role {role!r} for a column; roles are {', '.join(ROLES)}.")
        if name not in columns:
            raise BadData(f"{source} has no column {name!r} for the {role}; it has {listing}.")
    free_columns = {
        name.strip().casefold(): name
        for name in reversed(columns)
        if name not in columns_by_role.values()
    }
    assigned_columns = {
        role: columns_by_role.get(role)
        or next((free_columns[name] for name in role_names if name in free_columns), None)
        for role, role_names in ROLES.items()
    }
    query, positive = assigned_columns["query"], assigned_columns["positive"]
    if query is None or positive is None:
        missing_role = "query" if query is None else "positive"
        raise BadData(
            f"{source} has no column for the {missing_role} (recognised:"
            f" {', '.join(ROLES[missing_role])}); its columns: {listing}."
            f" {_naming_advice(missing_role, likely_column(columns, assigned_columns.values()))}"
        )
    negatives = [assigned_columns["negative"]] if assigned_columns["negative"] else []
    if "negative" not in columns_by_role:
        negatives += sorted(filter(_NUMBERED_NEGATIVE.fullmatch, columns), key=_number)
    return Columns(query, positive, tuple(negatives), assigned_columns["score"])


def likely_column(names: Iterable[str], assigned_names: Iterable[str | None] = ()) -> str:
    """Returns the first column that may have texts, for an example in a message, or "NAME".

    >>> likely_column(["_id", "query", "body"], ["query"]), likely_column(["id"])
    ('body', 'NAME')
    """
    unlikely_names = {*_ID_NAMES, *(name.casefold() for name in assigned_names if name)}
    return next((name for name in names if name.casefold() not in unlikely_names), "NAME")


def _naming_advice(role: str, name: str) -> str:
    """Explains how to name the column of a role, on the command line and in a recipe.

    A name with control characters cannot be typed, so NAME replaces it.
    """
    name = name if name.isprintable() else "NAME"
    return (
        f"Name it with --column {shlex.quote(f'{role}={name}')} on the command line, or with"
        f" data.columns={{{role}: {name!r}}} in a recipe."
    )


def is_blank(text: str | None) -> bool:
    """Returns True if there is nothing to encode: only white space and zero-width characters."""
    return (
        text is None
        or not text.strip("\ufeff\u200b\u200c\u200d\u2060 \t\r\n\v\f\x85\xa0\u2028\u2029\u3000")
        or text.isspace()
    )


def text_problem(text: str) -> str:
    """Returns the reason why a text cannot be encoded: a NUL, or half of a surrogate pair. It is ""
    for a valid text.
    """
    if "\0" in text:
        return "NUL character"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "half a surrogate pair (not Unicode text)"
    return ""


class RowMaker:
    """Turns records into rows, and counts in the report what is dropped."""

    def __init__(self, columns: Columns, report: ReadReport, max_negatives: int | None) -> None:
        self._columns, self._report, self._max_negatives = columns, report, max_negatives

    def rows(self, record: Record) -> list[Row]:
        """Returns the rows of one record, one per positive; none for a blank or bad record."""
        try:
            return self._rows(record)
        except _BadField as error:
            self._report.set_aside(BadRow(record.source, *error.args))
        return []

    def _rows(self, record: Record) -> list[Row]:
        columns, report = self._columns, self._report
        [query] = self._texts(record, columns.query, allow_list=False)
        positives = self._texts(record, columns.positive)
        negatives = [
            text
            for name in columns.negatives
            for text in self._texts(record, name, must_exist=False)
        ]
        if is_blank(query) or all(map(is_blank, positives)):
            report.blank_rows_dropped += 1
            return []
        scores = _scores(record, columns.score, len(positives), len(negatives))
        negative_scores: Sequence[float | None] = scores[1:] or [None] * len(negatives)
        nonblank = [
            (text, score)
            for text, score in zip(negatives, negative_scores, strict=True)
            if not is_blank(text)
        ]
        report.blank_texts_dropped += len(negatives) - len(nonblank) + sum(map(is_blank, positives))
        scored_negatives = [(text, score) for text, score in nonblank if text not in positives]
        report.own_negatives_dropped += len(nonblank) - len(scored_negatives)
        scored_negatives = scored_negatives[: self._max_negatives]
        row_negatives = tuple(text for text, _ in scored_negatives)
        labels = (*scores[:1], *(s for _, s in scored_negatives if s is not None)) or None
        return [
            Row(query, text, row_negatives, labels, record.source)
            for text in dict.fromkeys(positives)
            if not is_blank(text)
        ]

    def _texts(
        self, record: Record, name: str, allow_list: bool = True, must_exist: bool = True
    ) -> list[str]:
        """Returns the texts of a column. Null is a blank text."""
        if name not in record.values:
            if must_exist:
                raise _BadField(f"the field {name!r} is missing")
            return []
        value = record.values[name]
        items: Sequence[Any] = value if isinstance(value, list) and allow_list else [value]
        texts = [_text(item, name) for item in items]
        if problem := next(filter(None, map(text_problem, texts)), ""):
            raise _BadField(f"{problem} in {name!r}")
        return [self._report.truncate(text, record.source) for text in texts]


class _BadField(Exception):
    """A field that is missing or cannot be used: the reason and, if there are any, details."""


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping) and isinstance(
        value.get("text"), str
    ):  # a passage: {docid, title, text}
        title = value.get("title")
        return (
            f"{title} {value['text']}"
            if isinstance(title, str) and title.strip()
            else value["text"]
        )
    if not isinstance(value, str):
        content = repr(value)
        raise _BadField(
            f"the field {name!r} is {type_name(value)}, expected a text",
            content[:60] + ("..." if len(content) > 60 else ""),
        )
    return value


def _scores(record: Record, name: str | None, positives: int, negatives: int) -> list[float]:
    """Returns the scores of a record: none, one for the pair, or one per candidate."""
    value = record.values.get(name) if name else None
    if value is None or value == "":
        if name:
            raise _BadField(f"the field {name!r} is missing")
        return []
    values = value if isinstance(value, list) else [value]
    try:
        scores = [float(item) for item in values if not isinstance(item, bool)]
    except (TypeError, ValueError):
        scores = []
    if len(scores) != len(values) or not all(map(math.isfinite, scores)):
        raise _BadField(f"the field {name!r} is not a finite number", repr(value)[:60])
    if len(scores) != 1 and (positives != 1 or len(scores) != 1 + negatives):
        raise _BadField(
            f"the field {name!r} needs one score per candidate",
            f"{len(scores)} scores for {positives} positives and {negatives} negatives",
        )
    return scores


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))
