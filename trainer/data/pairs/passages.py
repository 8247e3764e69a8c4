"""Passages: the parts of documents that a search returns."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from trainer.data.documents.document import (
    DocumentSection,
    KnownPair,
    Paragraph,
    SourceDocument,
)
from trainer.data.documents.sentences import split_sentences
from trainer.data.near_duplicates import near_identical_pairs


@dataclass(frozen=True)
class Passage:
    """A part of a section, or the text of a known pair."""

    key: str
    """The name of the document, and the number of the passage in it."""
    document: str
    headings: tuple[str, ...]
    paragraphs: Sequence[Paragraph]
    is_first: bool = True
    """Whether the section begins here."""
    known_pair: KnownPair | None = None

    @cached_property
    def text(self) -> str:
        """The paragraphs, one per line."""
        return self.text_without(frozenset())

    def text_without(self, sentences: Set[str]) -> str:
        """Returns the text without some of its sentences."""
        lines = []
        for paragraph in self.paragraphs:
            line = paragraph.text
            if sentences and paragraph.is_prose:
                rest = [part for part in split_sentences(line) if part not in sentences]
                line = " ".join(rest)
            lines.append(line)
        return "\n".join(line for line in lines if line)

    @property
    def sentences(self) -> list[str]:
        """The sentences of its prose."""
        return [
            sentence
            for paragraph in self.paragraphs
            if paragraph.is_prose
            for sentence in split_sentences(paragraph.text)
        ]


def title_of(headings: Sequence[str]) -> str:
    """Returns the headings as one title.

    >>> title_of(["Disks", "Resize a disk"])
    'Disks: Resize a disk'
    """
    return ": ".join(headings)


def split_documents(documents: Iterable[SourceDocument], max_words: int) -> list[Passage]:
    """Returns the passages of documents. Each has at most `max_words` words, but known pairs are
    not cut.
    """
    passages: list[Passage] = []
    count: Counter[str] = Counter()

    def add(
        document: SourceDocument,
        headings: tuple[str, ...],
        paragraphs: Sequence[Paragraph],
        is_first: bool,
        known_pair: KnownPair | None = None,
    ) -> None:
        count[document.name] += 1
        key = f"{document.name}#{count[document.name]}"
        passages.append(Passage(key, document.name, headings, paragraphs, is_first, known_pair))

    for document in documents:
        for section in document.sections:
            for number, part in enumerate(_parts(section, max_words)):
                add(document, section.headings, part, number == 0)
        for pair in document.pairs:
            add(document, (), [Paragraph(pair.text, is_prose=False)], True, pair)
    return passages


def without_near_duplicates(passages: Sequence[Passage]) -> list[Passage]:
    """Returns the passages that are not near-identical to an earlier one (title and text)."""
    texts = (f"{title_of(passage.headings)} {passage.text}" for passage in passages)
    repeats = {second for _, second in near_identical_pairs(texts)}
    return [passage for number, passage in enumerate(passages) if number not in repeats]


def _parts(section: DocumentSection, max_words: int) -> Iterator[list[Paragraph]]:
    """Yields runs of paragraphs with at most `max_words` words each."""
    part: list[Paragraph] = []
    words = 0
    for paragraph in section.paragraphs:
        for piece in _pieces(paragraph, max_words):
            size = len(piece.text.split())
            if part and words + size > max_words:
                yield part
                part, words = [], 0
            part.append(piece)
            words += size
    if part:
        yield part


def _pieces(paragraph: Paragraph, max_words: int) -> Iterator[Paragraph]:
    """Yields the paragraph, in several pieces if it is too long: sentences, or lines of code."""
    if len(paragraph.text.split()) <= max_words:
        yield paragraph
        return
    space = " " if paragraph.is_prose else "\n"
    units = split_sentences(paragraph.text) if paragraph.is_prose else paragraph.text.splitlines()
    piece: list[str] = []
    words = 0
    for unit in units:
        unit_words = unit.split()
        if len(unit_words) > max_words:  # no unit that a text has
            units_of_words = [
                " ".join(unit_words[start : start + max_words])
                for start in range(0, len(unit_words), max_words)
            ]
        else:
            units_of_words = [unit]
        for text in units_of_words:
            size = len(text.split())
            if piece and words + size > max_words:
                yield Paragraph(space.join(piece), paragraph.is_prose, paragraph.term)
                piece, words = [], 0
            piece.append(text)
            words += size
    yield Paragraph(space.join(piece), paragraph.is_prose, paragraph.term)
