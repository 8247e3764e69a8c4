"""docs/reference/recipe.md: every key of a recipe, family by family, from the JSON Schema."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

PAGE = """# Recipe keys

Every key of a recipe with its values, default and meaning. Written by `make docs` from
`trainer/recipe/schema/`; do not edit. `nearfar recipe explain KEY` prints the same for one key.
Editors read [recipe.schema.json](../recipe.schema.json), which completes and checks keys while one
types.

A key with a dot stands in a section: `optimization.batch_size` is `batch_size` under
`optimization:` in the file, and `optimization.batch_size=128` on the command line. `...` in a
value means that the section has defaults of its own.
"""
HEAD = "| key | values | default | meaning |\n|---|---|---|---|\n"
BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
}
TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true, false",
    "null": "null",
    "object": "map",
}


@dataclass(frozen=True)
class Section:
    """The keys that stand together in one table."""

    title: str
    meaning: str
    rows: tuple[str, ...]

    @property
    def text(self) -> str:
        meaning = f"{self.meaning}\n\n" if self.meaning else ""
        return f"### {self.title}\n\n{meaning}{HEAD}" + "".join(self.rows)

    def without(self, others: Sequence["Section"]) -> "Section":
        """This section less the rows that the others of the same title have."""
        known = {row for other in others if other.title == self.title for row in other.rows}
        return replace(self, rows=tuple(row for row in self.rows if row not in known))


def recipe_page(schema: Mapping[str, Any]) -> str:
    """One chapter per family, and one for the keys that are the same in all families."""
    definitions = schema.get("$defs", {})
    families = {
        _kind(family): list(_sections(family, "", definitions))
        for family in _variants(schema, definitions)
    }
    shared = _shared(list(families.values()))
    chapters = {"Keys of every family": shared}
    for kind, sections in families.items():
        chapters[f"kind: {kind}"] = [section.without(shared) for section in sections]
    return PAGE + "".join(
        f"\n## {title}\n\n" + "\n".join(section.text for section in sections if section.rows)
        for title, sections in chapters.items()
        if any(section.rows for section in sections)
    )


def key_tables(schema: Mapping[str, Any]) -> str:
    """One table for each section of a file."""
    return "\n".join(section.text for section in _sections(schema, "", schema.get("$defs", {})))


def _shared(families: list[list[Section]]) -> list[Section]:
    """What is the same in all families: of each section the rows that all of them have."""
    first, *others = ({section.title: section for section in family} for family in families)
    return [
        Section(
            title,
            section.meaning if all(section in other.values() for other in others) else "",
            tuple(
                row
                for row in section.rows
                if all(title in other and row in other[title].rows for other in others)
            ),
        )
        for title, section in first.items()
    ]


def _sections(
    section: Mapping[str, Any], path: str, definitions: Mapping[str, Any]
) -> Iterator[Section]:
    """The section under `path`, then the sections in it."""
    kind = _kind(section) if path else ""
    title = (f"`{path}`" if path else "Top level") + (f", `kind: {kind}`" if kind else "")
    keys = {
        f"{path}.{name}".lstrip("."): key
        for name, key in section["properties"].items()
        if not (kind and name == "kind")
    }
    required = {f"{path}.{name}".lstrip(".") for name in section.get("required", ())}
    rows = tuple(_row(name, key, name in required, definitions) for name, key in keys.items())
    yield Section(title, _line(section.get("description", "")), rows)
    for name, key in keys.items():
        for variant in _variants(key, definitions):
            yield from _sections(variant, name, definitions)


def _variants(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[Any]:
    """The sections that a value may be, also as the items of a list."""
    if "$ref" in schema:
        yield from _variants(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    elif "properties" in schema:
        yield schema
    elif "items" in schema:
        yield from _variants(schema["items"], definitions)
    else:
        for each in (*schema.get("oneOf", ()), *schema.get("anyOf", ())):
            yield from _variants(each, definitions)


def _row(name: str, key: Mapping[str, Any], required: bool, definitions: Mapping[str, Any]) -> str:
    default = "**required**" if required else f"`{_default(key.get('default'))}`"
    values = _values(key, definitions)
    return f"| `{name}` | {values} | {default} | {_line(key.get('description', ''))} |\n"


def _values(key: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a key may be, as a person says it."""
    if "$ref" in key:
        return _values(definitions[key["$ref"].rpartition("/")[2]], definitions)
    if "properties" in key:
        kind = _kind(key)
        return f"`kind: {kind}`" if kind else "section"
    for several in ("oneOf", "anyOf"):
        if several in key:
            words = [_values(each, definitions) for each in key[several]]
            return ", ".join(dict.fromkeys(words))
    if "enum" in key:
        return ", ".join(f"`{word}`" for word in key["enum"])
    if "const" in key:
        return f"`{key['const']}`"
    if key.get("type") == "array":
        return f"list: {_values(key.get('items', {}), definitions)}"
    bounds = [text.format(f"{key[name]:.15g}") for name, text in BOUNDS.items() if name in key]
    return " ".join([TYPES.get(key.get("type", ""), "anything"), " ".join(bounds)]).strip()


def _kind(section: Mapping[str, Any]) -> str:
    """The value of `kind` that stands for a section, empty where it has no kind of its own."""
    return str(section["properties"].get("kind", {}).get("const", ""))


def _default(value: Any) -> str:
    match value:
        case {"kind": kind}:
            return f"kind: {kind} ..."
        case dict():
            return "..."
        case bool():
            return str(value).lower()
        case None:
            return "null"
        case "":
            return '""'
        case _:
            return str(value)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
