"""Sections of reStructuredText files.

A reader of our own: docutils refuses the directives of Sphinx, which most such files have.
"""

import re

from trainer.data.documents.document import DocumentSection, SectionBuilder

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*\s*$")
_DIRECTIVE = re.compile(r"\.\. (?:(?P<name>[\w:.-]+?)::)?(?P<argument>.*)")
_OPTION = re.compile(r":[\w -]+:")
_ROLE = re.compile(r"(?::[\w:.+-]+:)?`([^`<]*?)(?:\s*<[^`>]*>)?`_{0,2}")
_LITERAL = re.compile(r"``(.+?)``", re.DOTALL)
_MARKUP = re.compile(r"(\*\*|\*|\|)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_ITEM = re.compile(r"(?:[-*+•]|\(?(?:\d{1,3}|#|[A-Za-z])[.)])\s+(?=\S)")
_BORDER = re.compile(r"[=+|\s-]+")
_CODE = {"code", "code-block", "sourcecode", "parsed-literal", "prompt", "highlight", "doctest"}
_TEXT = {"note", "tip", "hint", "important", "warning", "caution", "attention", "danger", "error"}
_TEXT |= {"seealso", "admonition", "versionadded", "versionchanged", "deprecated", "topic"}
_TEXT |= {"glossary", "sidebar", "rubric", "container", "tab", "dropdown"}


def read_restructured_text(text: str) -> list[DocumentSection]:
    r"""Returns the sections of a reStructuredText file.

    Notes, warnings and the like are read, code too; the content of other directives is not.

    >>> text = "Disks\n=====\n\nStop the *machine* (:ref:`how <stop>`)::\n\n    az vm stop\n"
    >>> [section] = read_restructured_text(text)
    >>> section.headings, [paragraph.text for paragraph in section.paragraphs]
    (('Disks',), ['Stop the machine (how):', 'az vm stop'])
    """
    builder = SectionBuilder()
    levels: list[str] = []
    lines = [line.expandtabs().rstrip() for line in text.splitlines()]
    _read_block(lines, builder, levels)
    return builder.sections


def _read_block(lines: list[str], builder: SectionBuilder, levels: list[str]) -> None:
    """Adds the content of lines with one indentation, and of the blocks inside."""
    number = 0
    while number < len(lines):
        line = lines[number]
        if not line.strip():
            number += 1
        elif heading := _heading(lines, number):
            style, title, length = heading
            if style not in levels:
                levels.append(style)
            builder.add_heading(levels.index(style) + 1, _plain(title))
            number += length
        elif directive := _DIRECTIVE.match(line):
            body, number = _indented_block(lines, number + 1)
            _read_directive(directive, body, builder, levels)
        else:
            number = _read_paragraph(lines, number, builder, levels)


def _heading(lines: list[str], number: int) -> tuple[str, str, int] | None:
    """Returns the style, the text and the number of lines of a heading that begins here."""
    line, *next_lines = lines[number : number + 3]
    if (
        len(next_lines) == 2
        and _ADORNMENT.match(line)
        and line == next_lines[1]
        and next_lines[0].strip()
    ):
        return line[0] * 2, next_lines[0].strip(), 3
    is_adorned = bool(next_lines) and _ADORNMENT.match(next_lines[0])
    if is_adorned and line[0] != " " and len(next_lines[0]) >= max(2, len(line)):
        return next_lines[0][0], line, 2
    return None


def _read_directive(
    directive: re.Match[str], body: list[str], builder: SectionBuilder, levels: list[str]
) -> None:
    name, argument = directive["name"], directive["argument"].strip()
    while body and (_OPTION.match(body[0].strip()) or not body[0]):
        del body[0]
    if name in _CODE:
        builder.add("\n".join(body), is_prose=False)
    elif name in _TEXT:
        if name not in ("versionadded", "versionchanged", "deprecated"):
            builder.add(_plain(argument))
        _read_block(body, builder, levels)


def _read_paragraph(
    lines: list[str], start: int, builder: SectionBuilder, levels: list[str]
) -> int:
    """Adds what begins here, with what is indented below it; returns the next line's number."""
    if lines[start][0] == " ":  # a quotation
        body, end = _indented_block(lines, start)
        _read_block(body, builder, levels)
        return end
    if item := _ITEM.match(lines[start]):
        body, end = _indented_block(lines, start + 1)
        _read_block([lines[start][item.end() :], *body], builder, levels)
        return end
    number = start
    while number < len(lines) and lines[number].strip() and lines[number][0] != " ":
        number += 1
    text = "\n".join(lines[start:number])
    body, end = _indented_block(lines, number)
    if number == start + 1 and number < len(lines) and lines[number].strip():
        _read_definition(_plain(text), body, builder)
        return end
    is_table = text[0] in "=+|"
    if is_table:
        text = "\n".join(line for line in lines[start:number] if not _BORDER.fullmatch(line))
    builder.add(_plain(text.removesuffix(":") if text.endswith("::") else text), not is_table)
    if text.endswith("::"):
        builder.add("\n".join(body), is_prose=False)
        return end
    return number


def _read_definition(term: str, body: list[str], builder: SectionBuilder) -> None:
    definition = SectionBuilder()
    _read_block(body, definition, [])
    term = term.split(" : ")[0]
    for number, part in enumerate(
        part for section in definition.sections for part in section.paragraphs
    ):
        if number == 0:
            builder.add(f"{term}: {part.text}", part.is_prose, term)
        else:
            builder.add(part.text, part.is_prose)


def _indented_block(lines: list[str], number: int) -> tuple[list[str], int]:
    """Returns the indented lines from here on, without indentation, and the next line's number."""
    end = number
    while end < len(lines) and (not lines[end].strip() or lines[end][0] == " "):
        end += 1
    body = lines[number:end]
    margin = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=0)
    return "\n".join(line[margin:] for line in body).strip("\n").split("\n"), end


def _plain(text: str) -> str:
    """Returns a text without inline markup.

    >>> _plain("See :func:`~os.path.join`, `the page <x.html>`_ and ``a_b``.")
    'See os.path.join, the page and a_b.'
    """
    text = _ROLE.sub(lambda match: match[1].lstrip("~!"), _LITERAL.sub(r"\1", text))
    return _MARKUP.sub(r"\2", text)
