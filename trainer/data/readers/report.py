"""The report of reading a data source: counts, and the bad rows with their reasons."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from trainer.errors import TooManyBadRows

MAX_TEXT_CHARACTERS = 200_000
"""Longer texts are truncated when read: no encoder here takes more, and memory stays bounded."""
EXAMPLES_PER_REASON = 20
_log = logging.getLogger("nearfar.data")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was set aside: its source (`file:line`) and the reason."""

    source: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass
class ReadReport:
    """The layout and columns of a source, and how many of its rows were read, kept and dropped."""

    source: str
    layout: str = ""
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Role to the names of the columns that have it."""
    ignored_columns: tuple[str, ...] = ()
    rows_read: int = 0
    rows_kept: int = 0
    """Training pairs. A row with several positives gives several pairs."""
    bad: dict[str, int] = field(default_factory=dict)
    """Reason to the number of rows that were set aside for it."""
    bad_rows: list[BadRow] = field(default_factory=list)
    """The first bad rows of every reason; `bad` counts all of them."""
    blank_rows_dropped: int = 0
    blank_texts_dropped: int = 0
    """Number of blank negatives and blank further positives in rows that are kept."""
    own_negatives_dropped: int = 0
    duplicate_rows: int = 0
    duplicate_ids: int = 0
    other_files: int = 0
    """Of a folder of images: files that are hidden or no images by their names, and links to other
    folders.
    """
    same_text_under_two_ids: int = 0
    truncated_texts: int = 0
    notes: list[str] = field(default_factory=list)
    on_bad: Callable[[BadRow], None] | None = field(default=None, repr=False, compare=False)

    def set_aside(self, bad: BadRow) -> None:
        """Counts a bad row, and stores the first ones of each reason as examples."""
        self.bad[bad.reason] = self.bad.get(bad.reason, 0) + 1
        if self.bad[bad.reason] <= EXAMPLES_PER_REASON:
            self.bad_rows.append(bad)
        if self.on_bad:
            self.on_bad(bad)

    def truncate(self, text: str, source: str) -> str:
        """Returns the text, truncated to `MAX_TEXT_CHARACTERS`. The first truncation logs a
        warning.
        """
        if len(text) <= MAX_TEXT_CHARACTERS:
            return text
        self.truncated_texts += 1
        if self.truncated_texts == 1:
            _log.warning(
                "%s: a text of %d characters was cut to %d; further cuts are counted only",
                source,
                len(text),
                MAX_TEXT_CHARACTERS,
            )
        return text[:MAX_TEXT_CHARACTERS]

    @property
    def bad_count(self) -> int:
        """The number of rows that were set aside, for any reason."""
        return sum(self.bad.values())

    def facts(self) -> dict[str, Any]:
        """Returns the report without its source, as values for JSON."""
        values = asdict(replace(self, on_bad=None))
        del values["source"], values["on_bad"]
        return values

    @classmethod
    def from_facts(cls, source: str, facts: Mapping[str, Any]) -> "ReadReport":
        """Returns the report of which `facts` are the values; others are ignored."""
        values = {entry.name: facts[entry.name] for entry in fields(cls) if entry.name in facts}
        values["bad_rows"] = [BadRow(**bad) for bad in facts["bad_rows"]]
        values["columns"] = {role: tuple(names) for role, names in facts["columns"].items()}
        values["ignored_columns"] = tuple(facts["ignored_columns"])
        return cls(source, **values)

    @property
    def remark(self) -> str:
        """One line that says which rows and texts were dropped, and why; "" if none were.

        >>> ReadReport("a.jsonl", rows_read=9, bad={"not JSON": 2}, duplicate_rows=1).remark
        'a.jsonl: 9 rows, bad rows set aside: 2 (not JSON), duplicate pairs: 1'
        """
        counts = {
            "bad rows set aside": self.bad_count,
            "blank rows dropped": self.blank_rows_dropped,
            "blank texts dropped": self.blank_texts_dropped,
            "negatives dropped that are the positive": self.own_negatives_dropped,
            f"texts cut to {MAX_TEXT_CHARACTERS:,} characters": self.truncated_texts,
            "records dropped that repeat an id": self.duplicate_ids,
            "duplicate pairs": self.duplicate_rows,
        }
        parts = [f"{name}: {count:,}" for name, count in counts.items() if count]
        if self.bad:
            parts[0] += f" ({', '.join(self.bad)})"
        if parts:
            parts = [f"{self.rows_read:,} rows, {', '.join(parts)}"]
        parts += self.notes
        return f"{self.source}: {'; '.join(parts)}" if parts else ""

    def check_budget(self, max_bad_rows_ratio: float, is_corpus: bool = False) -> None:
        """Raises TooManyBadRows when more than this share of the rows was set aside.

        Of a corpus, no command lists all of them.
        """
        if self.bad_count <= max_bad_rows_ratio * self.rows_read:
            return
        examples = "\n".join(f"  {bad}" for bad in self.bad_rows[:3])
        other_columns = (
            ", name other columns (--column query=NAME, in a recipe data.columns={query: NAME})"
            if self.columns
            else ""
        )
        listing = "" if is_corpus else " (`nearfar data check SOURCE --rejected FILE` lists all)"
        raise TooManyBadRows(
            f"{self.source}: {self.bad_count} of {self.rows_read} rows could not be used, and a"
            f" share of {max_bad_rows_ratio:g} allows"
            f" {int(max_bad_rows_ratio * self.rows_read)}. The first ones:\n{examples}\nCorrect"
            f" them{listing}{other_columns}, or"
            " allow a larger share: data.max_bad_rows_ratio in a recipe, or --max-bad-rows-ratio of"
            " the commands that have it."
        )


def type_name(value: object) -> str:
    """Describes the type of a value for a message.

    >>> type_name(None), type_name([])
    ('missing', 'a list')
    """
    return "missing" if value is None else f"a {type(value).__name__}"
