"""What the readers of all formats return: a document with its sections, or with pairs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph, a table row or a block of code."""

    text: str
    is_prose: bool = True
    """False for code and tables, from which no sentence is taken."""
    term: str = ""
    """The term that this paragraph defines, if the format says so."""


@dataclass(frozen=True, slots=True)
class DocumentSection:
    """The paragraphs below one heading."""

    headings: tuple[str, ...]
    """The title of the document and the headings down to this section."""
    paragraphs: Sequence[Paragraph]


@dataclass(frozen=True, slots=True)
class KnownPair:
    """A text with a query that its author wrote: a docstring or the question of a ticket."""

    kind: str
    query: str
    """"" for a text without one, which is only a document of the corpus."""
    text: str


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """One document: a file, or a record of a table."""

    name: str
    sections: Sequence[DocumentSection] = ()
    pairs: Sequence[KnownPair] = ()


class SectionBuilder:
    """Collects headings and paragraphs in the order of the text.

    >>> builder = SectionBuilder()
    >>> builder.add_heading(1, "Disks")
    >>> builder.add_heading(2, "Resize a disk")
    >>> builder.add("Stop the machine first.")
    >>> [(section.headings, len(section.paragraphs)) for section in builder.sections]
    [(('Disks', 'Resize a disk'), 1)]
    """

    def __init__(self, title: str = "") -> None:
        self._headings: list[tuple[int, str]] = [(0, title)] if title else []
        self.sections: list[DocumentSection] = []
        self._paragraphs: list[Paragraph] | None = None

    def add_heading(self, level: int, text: str) -> None:
        """Begins a section. It is below all former headings with a lower level."""
        heading = one_line(text)
        if not heading:
            return
        self._headings = [entry for entry in self._headings if entry[0] < level]
        if heading not in {name for _, name in self._headings}:
            self._headings.append((level, heading))
        self._paragraphs = None

    def add(self, text: str, is_prose: bool = True, term: str = "") -> None:
        """Adds a paragraph, unless it is blank. Prose is put on one line."""
        text = one_line(text) if is_prose else text.strip("\n").rstrip()
        if not text:
            return
        if self._paragraphs is None:
            self._paragraphs = []
            headings = tuple(name for _, name in self._headings)
            self.sections.append(DocumentSection(headings, self._paragraphs))
        self._paragraphs.append(Paragraph(text, is_prose, one_line(term)))


def one_line(text: str) -> str:
    """Returns the text with every run of white space as one space."""
    return " ".join(text.split())


def plain_paragraphs(text: str) -> list[str]:
    r"""Returns the parts of a text between blank lines.

    >>> plain_paragraphs("One\nline.\n\n\nTwo.")
    ['One\nline.', 'Two.']
    """
    return [part for part in re.split(r"\n[ \t]*\n\s*", text.strip("\n")) if part.strip()]
