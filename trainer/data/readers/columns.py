"""Which column plays which role, and how a record becomes rows."""

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.readers.json_lines import Record
from trainer.data.readers.report import BadRow, FieldErrors, ReadReport
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
"""Names recognised for each role, in order of preference, without regard to case; also negative_1,
negative_2, ...
"""
_NUMBERED_NEGATIVE = re.compile(r"negative_?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """The column names that play each role."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    score: str | None = None

    def by_role(self) -> dict[str, tuple[str, ...]]:
        """Role to columns, without the roles nobody plays."""
        roles = {
            "query": (self.query,),
            "positive": (self.positive,),
            "negative": self.negatives,
            "score": (self.score,) if self.score else (),
        }
        return {role: names for role, names in roles.items() if names}


def understand(names: Iterable[str], wanted: Mapping[str, str], source: str) -> Columns:
    """Which of the columns `names` plays which role; `wanted` (role to column) wins over the names
    recognised.

    Raises BadData when a wanted column is not there, or when there is no query or no positive.

    >>> understand(["Question", "answer", "negative_2", "negative_1", "id"], {}, "x.csv")
    Columns(query='Question', positive='answer', negatives=('negative_1', 'negative_2'), score=None)
    """
    there = list(dict.fromkeys(names))
    listing = ", ".join(map(repr, there[:20])) or "none"
    for role, name in wanted.items():
        if role not in ROLES:
            raise BadData(f"there is no role {role!r} for a column; roles are {', '.join(ROLES)}.")
        if name not in there:
            raise BadData(f"{source} has no column {name!r} for the {role}; it has {listing}.")
    free = {
        name.strip().casefold(): name for name in reversed(there) if name not in wanted.values()
    }
    found = {
        role: (
            wanted.get(role) or next((free[known] for known in known_names if known in free), None)
        )
        for role, known_names in ROLES.items()
    }
    query, positive = found["query"], found["positive"]
    if query is None or positive is None:
        lacking = "query" if query is None else "positive"
        raise BadData(
            f"{source} has no column for the {lacking} (recognised: {', '.join(ROLES[lacking])});"
            f" its columns: {listing}. {how_to_name(lacking, there[0] if there else 'NAME')}"
        )
    numbered = sorted(filter(_NUMBERED_NEGATIVE.fullmatch, there), key=_number)
    if "negative" in wanted:
        numbered = []
    named = (found["negative"],) if found["negative"] else ()
    return Columns(query, positive, (*named, *numbered), found["score"])


def how_to_name(role: str, name: str) -> str:
    """Advice on how to name a column, on the command line and in a recipe."""
    return (
        f"Name it with --column {shlex.quote(f'{role}={name}')} on the command line, or with"
        f" data.columns={{{role}: {name!r}}} in a recipe."
    )


def is_blank(text: str | None) -> bool:
    """Whether there is nothing to encode: no character but white space and zero-width ones."""
    return (
        text is None
        or not text.strip("\ufeff\u200b\u200c\u200d\u2060 \t\r\n\v\f\x85\xa0\u2028\u2029\u3000")
        or text.isspace()
    )


def text_problem(text: str) -> str:
    """Why a text cannot be used although it is one: a NUL or half a surrogate pair; "" when it
    can.
    """
    if "\0" in text:
        return "NUL character"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "half a surrogate pair (not Unicode text)"
    return ""


class RowMaker:
    """Turns records into rows, and counts in the report what was left out."""

    def __init__(self, columns: Columns, report: ReadReport, max_negatives: int | None) -> None:
        self._columns, self._report, self._max_negatives = columns, report, max_negatives
        self._errors = FieldErrors(report.source)

    def rows(self, record: Record) -> list[Row]:
        """The rows of one record: one a positive; none when it is blank or bad."""
        try:
            return self._rows(record)
        except _FieldError as error:
            self._errors.add(record.source, str(error))
        except _BadText as error:
            self._report.set_aside(BadRow(record.source, str(error)))
        return []

    def finish(self) -> None:
        """Raises BadData if fields were missing or of the wrong type."""
        self._errors.raise_if_any()

    def _rows(self, record: Record) -> list[Row]:
        columns, report = self._columns, self._report
        [query] = self._texts(record, columns.query, several=False)
        positives = self._texts(record, columns.positive)
        negatives = [
            text for name in columns.negatives for text in self._texts(record, name, required=False)
        ]
        if is_blank(query) or all(map(is_blank, positives)):
            report.blank_rows_dropped += 1
            return []
        scores = _scores(record, columns.score, len(positives), len(negatives))
        negative_scores: Sequence[float | None] = scores[1:] or [None] * len(negatives)
        kept = [
            (text, score)
            for text, score in zip(negatives, negative_scores, strict=True)
            if not is_blank(text)
        ]
        report.blank_texts_dropped += len(negatives) - len(kept) + sum(map(is_blank, positives))
        own = [(text, score) for text, score in kept if text not in positives]
        report.own_negatives_dropped += len(kept) - len(own)
        own = own[: self._max_negatives]
        labels = (*scores[:1], *(score for _, score in own if score is not None)) or None
        return [
            Row(query, text, tuple(negative for negative, _ in own), labels, record.source)
            for text in dict.fromkeys(positives)
            if not is_blank(text)
        ]

    def _texts(
        self, record: Record, name: str, several: bool = True, required: bool = True
    ) -> list[str]:
        """The texts of a column; null is a blank text."""
        if name not in record.values:
            if required:
                raise _FieldError(f"the field {name!r} is missing")
            return []
        value = record.values[name]
        items: Sequence[Any] = value if isinstance(value, list) and several else [value]
        texts = [_text(item, name) for item in items]
        if problem := next(filter(None, map(text_problem, texts)), ""):
            raise _BadText(f"{problem} in {name!r}")
        return [self._report.bounded(text, record.source) for text in texts]


class _FieldError(Exception):
    """A field that is missing or of the wrong type."""


class _BadText(Exception):
    """A text that cannot be encoded."""


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
        shown = repr(value)
        raise _FieldError(
            f"the field {name!r} is a {type(value).__name__}, expected a text:"
            f" {shown[:60]}{'...' if len(shown) > 60 else ''}"
        )
    return value


def _scores(record: Record, name: str | None, positives: int, negatives: int) -> list[float]:
    """No score, the pair's own, or one a candidate."""
    value = record.values.get(name) if name else None
    if value is None or value == "":
        if name:
            raise _FieldError(f"the field {name!r} is missing")
        return []
    values = value if isinstance(value, list) else [value]
    try:
        scores = [float(item) for item in values if not isinstance(item, bool)]
    except (TypeError, ValueError):
        scores = []
    if len(scores) != len(values) or not all(map(math.isfinite, scores)):
        raise _FieldError(f"the field {name!r} is {str(value)[:60]!r}, expected a finite number")
    if len(scores) != 1 and (positives != 1 or len(scores) != 1 + negatives):
        raise _FieldError(
            f"the field {name!r} has {len(scores)} scores for {positives} positives and {negatives}"
            " negatives; give one a candidate"
        )
    return scores


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))
