"""What reading a source found: counts, what was set aside and why."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from trainer.errors import BadData, TooManyBadRows

MAX_TEXT_CHARACTERS = 200_000
"""Longer texts are cut when read: no encoder here takes more, and memory stays bounded."""
EXAMPLES_KEPT = 20
_log = logging.getLogger("nearfar.data")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was set aside: where it stands, and why."""

    source: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass
class ReadReport:
    """What was understood of a source and what was done with its rows."""

    source: str
    layout: str = ""
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Role to the column names that play it."""
    ignored_columns: tuple[str, ...] = ()
    rows_read: int = 0
    rows_kept: int = 0
    """Pairs kept; one read row with several positives gives several."""
    bad: dict[str, int] = field(default_factory=dict)
    bad_rows: list[BadRow] = field(default_factory=list)
    """The first bad rows of every reason; `bad` counts them all."""
    blank_rows_dropped: int = 0
    blank_texts_dropped: int = 0
    """Blank negatives and further positives left out of rows that stay."""
    own_negatives_dropped: int = 0
    duplicate_rows: int = 0
    duplicate_ids: int = 0
    same_text_under_two_ids: int = 0
    truncated_texts: int = 0
    notes: list[str] = field(default_factory=list)
    on_bad: Callable[[BadRow], None] | None = field(default=None, repr=False, compare=False)

    def set_aside(self, bad: BadRow) -> None:
        """Counts a bad row, and keeps it as an example while there are few of its reason."""
        self.bad[bad.reason] = self.bad.get(bad.reason, 0) + 1
        if self.bad[bad.reason] <= EXAMPLES_KEPT:
            self.bad_rows.append(bad)
        if self.on_bad:
            self.on_bad(bad)

    def bounded(self, text: str, source: str) -> str:
        """The text, cut to `MAX_TEXT_CHARACTERS`; the first cut of a source is warned of."""
        if len(text) <= MAX_TEXT_CHARACTERS:
            return text
        self.truncated_texts += 1
        if self.truncated_texts == 1:
            _log.warning(
                "%s: a text of %d characters was cut to %d; further ones are only counted",
                source,
                len(text),
                MAX_TEXT_CHARACTERS,
            )
        return text[:MAX_TEXT_CHARACTERS]

    @property
    def bad_count(self) -> int:
        """Rows set aside, of all reasons."""
        return sum(self.bad.values())

    def check_budget(self, max_bad_rows_ratio: float) -> None:
        """Raises TooManyBadRows when more than that share of the rows was set aside."""
        if self.bad_count <= max_bad_rows_ratio * self.rows_read:
            return
        shown = "\n".join(f"  {bad}" for bad in self.bad_rows[:3])
        raise TooManyBadRows(
            f"{self.source}: {self.bad_count} of {self.rows_read} rows could not be used, and a share"
            f" of {max_bad_rows_ratio:g} allows {int(max_bad_rows_ratio * self.rows_read)}. First"
            f" ones:\n{shown}\nMend them (`nearfar data check SOURCE --rejected FILE` lists all), or"
            " allow a larger share: --max-bad-rows-ratio on the command line,"
            " data.max_bad_rows_ratio in a recipe."
        )


class FieldErrors:
    """Rows whose fields are missing or of the wrong type: not noise but a misunderstanding, so
    reading ends after three.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: list[str] = []

    def add(self, row: str, problem: str) -> None:
        """Notes one row; raises BadData at the third."""
        self.found.append(f"  {row}: {problem}")
        if len(self.found) == 3:
            self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raises BadData naming the fields and the first rows."""
        if self.found:
            raise BadData(
                f"{self.source}: rows lack a field or have one of the wrong type:\n"
                + "\n".join(self.found)
                + "\nEvery row needs a query and a positive that are texts. Mend the file, or name"
                " other columns: --column query=NAME on the command line, data.columns={query:"
                " NAME} in a recipe."
            )
