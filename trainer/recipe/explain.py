"""`nearfar recipe explain`, and the JSON Schema of recipes."""

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from inspect import getdoc
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from trainer.errors import BadRecipe
from trainer.recipe.keys import Key, Path, all_keys, kind_of, sections_in, suggestion_for
from trainer.recipe.schema.families import FAMILIES, Recipe
from trainer.recipe.schema.section import Section
from trainer.recipe.type_text import default_text, one_of, type_text

_SCHEMA_URI = "https://json-schema.org/draft/2020-12/schema"
_ALL_FAMILIES = tuple(FAMILIES)


def explain_keys(name: str | None = None) -> str:
    """Explains all keys of recipes, one section, or one key.

    Raises `BadRecipe` with the nearest key for an unknown name.
    """
    keys = [key for key in all_keys() if key.name == name]
    if name is not None and not keys:
        *parent, last = name.split(".")
        raise BadRecipe(
            f"a recipe has no key {name}{suggestion_for(last, tuple(parent))} (`nearfar"
            " recipe explain` lists every key)"
        )
    if keys and keys[0].variant and keys[0].path[-1] == "kind":
        keys = [key for key in all_keys() if key.path == keys[0].path[:-1]]
    lines = _section(()) if name is None else [line for key in keys for line in _entry(key)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of recipes, for editors that complete and check YAML."""
    schema = TypeAdapter[Recipe](Recipe).json_schema()
    _require_kinds(schema)
    return {"$schema": _SCHEMA_URI, "title": "Recipe", **schema}


def _require_kinds(schema: dict[str, Any]) -> None:
    """Makes `kind` a required key of all variants except the default one.

    Otherwise a section without `kind` would match several variants, which JSON Schema does not
    allow.
    """
    defaults = {"BiEncoderRecipe"}
    for definition in schema["$defs"].values():
        for value in definition.get("properties", {}).values():
            if "discriminator" in value and "default" in value:
                kind = value["default"]["kind"]
                defaults.add(value["discriminator"]["mapping"][kind].rsplit("/", 1)[1])
    for name, definition in schema["$defs"].items():
        if "const" in definition.get("properties", {}).get("kind", {}) and name not in defaults:
            definition["required"] = ["kind", *definition.get("required", [])]


def _entry(
    key: Key, families: tuple[str, ...] = _ALL_FAMILIES, variant: str | None = None
) -> list[str]:
    """Returns the lines about one key and the keys below it: default, valid values and meaning.

    `families` and `variant` are in the heading above, so they are not repeated.
    """
    if not key.sections:
        return _lines(key, families, variant)
    fields = key.fields.values()
    plain = all(sections_in(field) == (field.annotation,) for field in fields)
    return ["", *([] if plain else _lines(key, families, variant)), *_section(key.path), ""]


def _lines(key: Key, families: tuple[str, ...], variant: str | None) -> list[str]:
    """Returns the lines about one key, once for each definition that differs between families."""
    definitions: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for family, field in key.fields.items():
        definitions[(*_name_default_type(key, field), field.description or "")].append(family)
    lines = []
    for (name, default, type_name, meaning), owners in definitions.items():
        kinds = [f"kind: {one_of(owners)}"] if tuple(owners) != families else []
        if key.variant != variant:
            kinds.append(f"{'.'.join(key.path[:-1])}.kind: {key.variant}")
        note = f"   (only with {', '.join(kinds)})" if kinds else ""
        lines.append(f"{f'{name} = {default}':<44} {type_name}{note}")
        lines += textwrap.wrap(meaning, 100, initial_indent="    ", subsequent_indent="    ")
    return lines


def _name_default_type(key: Key, field: FieldInfo) -> tuple[str, str, str]:
    """Returns name, default and type of a key. A required section with variants is shown as its
    `kind`.
    """
    sections = sections_in(field)
    kinds = [kind for variant in sections if (kind := kind_of(variant)) is not None]
    if kinds and (field.is_required() or isinstance(field.default, Section)):
        default = "(required)" if field.is_required() else str(kind_of(type(field.default)))
        return f"{key.name}.kind", default, one_of(kinds)
    return key.name, default_text(field), type_text(field.annotation, field.metadata)


def _section(path: Path) -> list[str]:
    """Returns the lines about all keys under `path`, variant by variant."""
    keys = [key for key in all_keys() if key.path[:-1] == path]
    lines: list[str] = []
    for variant in dict.fromkeys(key.variant for key in keys):
        owners = tuple(
            family
            for family in FAMILIES
            if any(key.variant == variant and family in key.fields for key in keys)
        )
        lines += ["", *_headings(path, variant, owners)]
        for key in keys:
            if key.variant == variant and not (variant and key.path[-1] == "kind"):
                lines += _entry(key, owners, variant)
    return lines


def _headings(path: Path, variant: str | None, families: Iterable[str]) -> list[str]:
    """Returns the headings of a section, one for each meaning that differs between families."""
    meanings: dict[str, list[str]] = defaultdict(list)
    for family in families:
        meanings[getdoc(_class_at(path, variant, family)) or ""].append(family)
    kind = f", kind: {variant}" if variant else ""
    lines = []
    for meaning, owners in meanings.items():
        note = f" (with kind: {one_of(owners)})" if tuple(owners) != _ALL_FAMILIES else ""
        place = f"{'.'.join(path)}{kind}{note}" if path else f"A recipe{note}"
        text = f"{place} - {' '.join(meaning.split())}"
        lines += textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ")
    return lines


def _class_at(path: Path, variant: str | None, family: str) -> type[Section]:
    if not path:
        return FAMILIES[family]
    field = next(
        key.fields[family] for key in all_keys() if key.path == path and family in key.fields
    )
    sections = sections_in(field)
    return next(section for section in sections if variant in (None, kind_of(section)))
