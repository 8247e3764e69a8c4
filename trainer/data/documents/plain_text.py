"""The section of a plain text file."""

from trainer.data.documents.document import (
    DocumentSection,
    SectionBuilder,
    one_line,
    plain_paragraphs,
)

_MAX_TITLE_WORDS = 12


def read_plain_text(text: str, title: str = "") -> list[DocumentSection]:
    r"""Returns the section of a text whose paragraphs are divided by blank lines.

    Without a `title`, a short first paragraph of one line that does not end as a sentence is the
    title.

    >>> [section] = read_plain_text("Disks\n\nStop the machine\nfirst.\n")
    >>> section.headings, section.paragraphs[0].text
    (('Disks',), 'Stop the machine first.')
    """
    first, *other_paragraphs = plain_paragraphs(text) or [""]
    is_title = "\n" not in first and not first.rstrip().endswith((".", "!", "?", ":", ";", ","))
    if not title and other_paragraphs and is_title and len(first.split()) <= _MAX_TITLE_WORDS:
        title, first = one_line(first), ""
    builder = SectionBuilder(one_line(title))
    for paragraph in (first, *other_paragraphs):
        builder.add(paragraph)
    return builder.sections
