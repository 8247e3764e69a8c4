"""Reads and writes YAML. The values are only maps, lists, text, numbers, true, false and null.

The reader uses the events of the parser, so there is no constructor that a file could misuse. Tags,
aliases and duplicate keys are errors that name their place. Words are read as in YAML 1.2: `no` is
text, `1e-3` is a number, `2026-01-01` is text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from trainer.errors import BadRecipe

MAXIMUM_BYTES = 1_000_000
MAXIMUM_DEPTH = 20
_STANDARD_TAGS = "tag:yaml.org,2002:"

YamlValue = dict[str, Any] | list[Any] | str | int | float | bool | None
"""A value in a YAML text. The items of lists and maps are such values too."""
Place = tuple[str | int, ...]
"""A key as its steps from the root: ("trackers", 0, "project")."""

_INTEGER = re.compile(r"[-+]?[0-9](_?[0-9])*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **{
        sign + word: float(sign + "inf")
        for sign in ("", "+", "-")
        for word in (".inf", ".Inf", ".INF")
    },
}


@dataclass(frozen=True, slots=True)
class Tree:
    """The values of a YAML text, and the line of each key."""

    value: YamlValue
    lines: Mapping[Place, int]


def read_text(path: Path, file_kind: str = "recipe") -> str:
    """Returns the text of a YAML file; `file_kind` names it in messages.

    Raises `BadRecipe` if it cannot be read, is not UTF-8, or is larger than 1 MB.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise BadRecipe(
            f"{file_kind} {path} cannot be read: {error.strerror}; give the path of a YAML file"
        ) from error
    if len(content) > MAXIMUM_BYTES:
        raise BadRecipe(
            f"{file_kind} {path} is larger than {MAXIMUM_BYTES:,} bytes, so it is not a"
            f" {file_kind}; give the path of a YAML file"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRecipe(
            f"{file_kind} {path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error


def parse(text: str, name: str) -> Tree:
    r"""Returns the values in `text`; `name` names it in messages.

    Raises `BadRecipe` with line and key if something is not allowed.

    >>> parse("rate: 1e-3\nword: no\nlist: [1, '1']", "example").value
    {'rate': 0.001, 'word': 'no', 'list': [1, '1']}
    """
    try:
        reader = _TreeReader(text, name)
        return Tree(reader.document(), reader.lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = f"{name}:{mark.line + 1}" if mark else name
        advice = (
            "put text that contains ': ' in quotes"
            if error.problem == "mapping values are not allowed here"
            else "check indentation, quotes and brackets"
        )
        raise BadRecipe(
            f"{location}: this is not YAML: {error.problem or error.context}; {advice}"
        ) from error
    except yaml.reader.ReaderError as error:
        raise BadRecipe(
            f"{name}: character number {error.position} is not allowed in YAML: {error.reason};"
            " remove it"
        ) from error


def parse_word(text: str) -> str | int | float | bool | None:
    """Returns the value of a YAML word without quotes.

    >>> [parse_word(word) for word in ("1e-3", "64", "true", "null", "no", "BAAI/bge-m3")]
    [0.001, 64, True, None, 'no', 'BAAI/bge-m3']
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) < 40:
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def dump(value: YamlValue) -> str:
    """Returns YAML that `parse` reads as an equal value, with the keys in the given order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def key_name(place: Place) -> str:
    """Returns a place as it is written in a message.

    >>> key_name(("trackers", 0, "project"))
    'trackers.0.project'
    """
    return ".".join(map(str, place))


class _Events(Reader, Scanner, Parser):
    """PyYAML's parser without its constructor, so that it cannot build objects."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


class _TreeReader:
    """One YAML document, read by recursive descent over its events."""

    def __init__(self, text: str, name: str) -> None:
        self.events, self.name = _Events(text), name
        self.lines: dict[Place, int] = {}

    def document(self) -> YamlValue:
        """Returns the only document of the text, or None if there is none."""
        self.events.get_event()  # the start of the stream
        if self.events.check_event(yaml.StreamEndEvent):
            return None
        self.events.get_event()  # the start of the document
        value = self.value(())
        self.events.get_event()  # the end of the document
        if not self.events.check_event(yaml.StreamEndEvent):
            raise self.refusal(
                self.events.get_event(),
                (),
                "a second document starts here (`---`); a recipe is one document",
            )
        return value

    def value(self, place: Place) -> YamlValue:
        event = self.events.get_event()
        if isinstance(event, yaml.AliasEvent):
            raise self.refusal(
                event,
                place,
                f"`*{event.anchor}` repeats another part of the file; write the value out",
            )
        if event.tag is not None:
            raise self.refusal(
                event,
                place,
                f"the tag {event.tag.replace(_STANDARD_TAGS, '!!')} would build an object, but"
                " recipes contain only plain values; remove the tag",
            )
        if len(place) > MAXIMUM_DEPTH:
            raise self.refusal(
                event,
                place,
                f"nested more than {MAXIMUM_DEPTH} levels deep, deeper than any key of a recipe",
            )
        match event:
            case yaml.ScalarEvent():
                return self.scalar(event, place)
            case yaml.SequenceStartEvent():
                return self.sequence(place)
            case _:
                return self.mapping(place)

    def scalar(self, event: yaml.ScalarEvent, place: Place) -> YamlValue:
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self.refusal(
                event,
                place,
                "an escape is only half a character (a lone surrogate); write the complete"
                " character",
            )
        return parse_word(text) if event.implicit[0] else text

    def sequence(self, place: Place) -> list[YamlValue]:
        items: list[YamlValue] = []
        while not self.events.check_event(yaml.SequenceEndEvent):
            place_below = (*place, len(items))
            self.lines[place_below] = _line(self.events.peek_event())
            items.append(self.value(place_below))
        self.events.get_event()
        return items

    def mapping(self, place: Place) -> dict[str, YamlValue]:
        values: dict[str, YamlValue] = {}
        while not self.events.check_event(yaml.MappingEndEvent):
            event = self.events.peek_event()
            key = self.value((*place, "?"))
            if not isinstance(key, str):
                raise self.refusal(event, place, f"{key!r:.60} cannot be a key; keys are text")
            place_below = (*place, key)
            if key in values:
                raise self.refusal(
                    event,
                    place_below,
                    f"given twice, first on line {self.lines[place_below]}; keep one of them",
                )
            self.lines[place_below] = _line(event)
            values[key] = self.value(place_below)
        self.events.get_event()
        return values

    def refusal(self, event: yaml.Event, place: Place, reason: str) -> BadRecipe:
        key = f"{key_name(place)}: " if place else ""
        return BadRecipe(f"{self.name}:{_line(event)}: {key}{reason}")


def _line(event: yaml.Event) -> int:
    """Returns the first line of an event, from 1. The parser marks every event."""
    return event.start_mark.line + 1  # type: ignore[union-attr]


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or `parse_word` would read as another value, and escapes
    characters that quotes cannot preserve.
    """

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Returns the text in the simplest style that is read as the same text."""
        style = (
            '"' if not text.isprintable() else None if isinstance(parse_word(text), str) else "'"
        )
        return self.represent_scalar(_STANDARD_TAGS + "str", text, style=style)

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(str, _Dumper.represent_text)
