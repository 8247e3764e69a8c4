"""Sections of Markdown files, by markdown-it-py (CommonMark and tables)."""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from trainer.data.documents.document import DocumentSection, SectionBuilder
from trainer.data.documents.html_pages import read_html

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*\n", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r"^title:[ \t]*(['\"]?)(.+?)\1[ \t]*$", re.MULTILINE)


def read_markdown(text: str) -> list[DocumentSection]:
    r"""Returns the sections of a Markdown text.

    The title is `title` of the front matter, if there is one; then a first heading of level 1 that
    repeats it changes nothing.

    >>> [section] = read_markdown("# Disks\nStop the *machine*.\n\n```\naz vm stop\n```\n")
    >>> section.headings, [paragraph.text for paragraph in section.paragraphs]
    (('Disks',), ['Stop the machine.', 'az vm stop'])
    """
    front_matter = _FRONT_MATTER.match(text)
    title = _TITLE.search(front_matter[1]) if front_matter else None
    builder = SectionBuilder(title[2] if title else "")
    tokens = _parser().parse(text[front_matter.end() :] if front_matter else text)
    row: list[str] | None = None
    for previous_token, token in zip([None, *tokens], tokens, strict=False):
        match token.type:
            case "tr_open":
                row = []
            case "tr_close":
                builder.add(" | ".join(row or ()), is_prose=False)
                row = None
            case "inline" if previous_token and previous_token.type == "heading_open":
                builder.add_heading(int(previous_token.tag[1]), _inline_text(token.children or ()))
            case "inline" if row is not None:
                row.append(_inline_text(token.children or ()))
            case "inline":
                builder.add(_inline_text(token.children or ()))
            case "fence" | "code_block":
                builder.add(token.content, is_prose=False)
            case "html_block":
                for section in read_html(token.content):
                    for paragraph in section.paragraphs:
                        builder.add(paragraph.text, paragraph.is_prose, paragraph.term)
    return builder.sections


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table")


def _inline_text(tokens: Sequence["Token"]) -> str:
    """Returns the text of a line without its markup. An image is its description."""
    parts = []
    for token in tokens:
        if token.type in ("text", "code_inline", "image", "text_special"):
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return "".join(parts)
