"""A recipe file, with overrides, to a checked `Recipe` and back. Every problem is reported at once,
with its place and the nearest key.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from trainer.errors import BadRecipe
from trainer.recipe.keys import (
    choices,
    kind_of,
    nearest,
    nearest_keys,
    question,
    sections_in,
    type_text,
)
from trainer.recipe.schema import Recipe, Section
from trainer.recipe.yaml_text import Place, Value, dotted, dump, parse, parse_word, read_text

_COMMAND_LINE = "command line"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file with `key.sub=value` overrides put in; raises `BadRecipe` that
    names every problem.

    A section with variants whose `kind` is left out is the default variant. The value of an
    override is one YAML word or quoted text, a list `[...]` or a map `{...}`; of two overrides of
    one key the later counts.
    """
    tree = parse(read_text(Path(path)), str(path))
    if not isinstance(tree.value, dict):
        given = "is empty" if tree.value is None else f"holds {_shown(tree.value)}"
        raise BadRecipe(
            f"recipe {path} {given}; a recipe is a map with at least name, model and data"
        )
    origins = {place: f"{path}:{line}" for place, line in tree.lines.items()}
    values = copy.deepcopy(tree.value)
    _override(values, overrides, origins)
    _fill_kinds(values, Recipe)
    return _checked(values, origins, str(path))


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults written out; `load_recipe` reads it back to an equal
    recipe.
    """
    blocks = [dump({name: value}) for name, value in recipe.model_dump(mode="json").items()]
    return "".join("\n" + block if ":\n" in block else block for block in blocks)


def _checked(values: dict[str, Value], origins: dict[Place, str], name: str) -> Recipe:
    """The values as a `Recipe`. Read as JSON, because there strict means what a person expects:
    lists fill tuples, 1 is a number.
    """
    try:
        return Recipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = [
            _problem(details, values, origins, name)
            for details in error.errors(include_url=False, include_context=False)
        ]
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        raise BadRecipe(problems[0])
    raise BadRecipe(
        f"{len(problems)} problems in recipe {name}\n"
        + "\n".join(f"  {problem}" for problem in problems)
    )


# Overrides


def _override(
    values: dict[str, Value], overrides: Sequence[str], origins: dict[Place, str]
) -> None:
    """Puts `key.sub=value` settings into `values`, and notes in `origins` that they came from the
    command line.
    """
    for place, value in map(_setting, overrides):
        if place[-1] == "kind":
            _drop_other_variant(values, place[:-1], value, origins)
        _set(values, place, value)
        for stale in [known for known in origins if known[: len(place)] == place]:
            del origins[stale]
        for depth in range(1, len(place) + 1):
            origins.setdefault(place[:depth], _COMMAND_LINE)


def _setting(override: str) -> tuple[Place, Value]:
    """The place and value of one override."""
    key, equals, text = override.partition("=")
    if not equals:
        keys = nearest_keys(key.split(".")[-1])
        raise BadRecipe(
            f"{_COMMAND_LINE}: {override} has no '='; write key=value, such as"
            f" {(keys or ['optimization.epochs'])[0]}=..."
        )
    steps = key.strip().split(".")
    if not all(steps):
        raise BadRecipe(
            f"{_COMMAND_LINE}: {override} has an empty key; write key=value, such as"
            " optimization.epochs=4"
        )
    place = tuple(int(step) if step.isdecimal() else step for step in steps)
    return place, (
        parse(text, f"{_COMMAND_LINE}: {key}").value
        if text[:1] in ("[", "{", "'", '"')
        else parse_word(text)
    )


def _set(values: dict[str, Value], place: Place, value: Value) -> None:
    """Puts `value` at `place`, making the sections on the way that are not there."""
    current: Any = values
    for depth, step in enumerate(place):
        last = depth == len(place) - 1
        if isinstance(current, dict):
            step = str(step)
            if last:
                current[step] = value
            elif current.get(step) is None:
                current[step] = {}
        elif isinstance(current, list) and isinstance(step, int) and step < len(current):
            if last:
                current[step] = value
        else:
            held = f"holds {_shown(current)}, which has no {step} in it"
            raise BadRecipe(
                f"{_COMMAND_LINE}: {dotted(place)} cannot be set: {dotted(place[:depth])} {held}"
            )
        current = current[step]


def _drop_other_variant(
    values: dict[str, Value], place: Place, kind: Value, origins: dict[Place, str]
) -> None:
    """Before the section at `place` becomes another variant: takes out what the file says that only
    the former variant has.
    """
    section, field = _value_at(values, place), _field_at(place)
    if not isinstance(section, dict) or field is None:
        return
    keys = {
        kind_of(variant): set(variant.model_fields) for variant in sections_in(field.annotation)
    }
    former = section.get("kind", _default_kind(field))
    if isinstance(former, str) and isinstance(kind, str) and {former, kind} <= keys.keys():
        for key in keys[former] - keys[kind]:
            if _origin((*place, key), origins) != _COMMAND_LINE:
                section.pop(key, None)


def _default_kind(field: FieldInfo) -> str | None:
    return kind_of(type(field.default)) if isinstance(field.default, Section) else None


def _fill_kinds(values: Value, section: type[Section]) -> None:
    """Writes the default's `kind` into every section with variants that has none."""
    for name, field in section.model_fields.items():
        inner, variants = (
            values.get(name) if isinstance(values, dict) else None,
            sections_in(field.annotation),
        )
        if not isinstance(inner, dict) or not variants:
            continue
        if len(variants) > 1 and (kind := _default_kind(field)):
            inner.setdefault("kind", kind)
        for variant in variants:
            if kind_of(variant) in (None, inner.get("kind")):
                _fill_kinds(inner, variant)


# Messages


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in the given values together with what the schema has there."""

    place: Place
    value: Value
    section: type[Section]
    """The section that holds, or should hold, this place."""
    field: FieldInfo | None


def _spot(location: tuple[int | str, ...], values: dict[str, Value]) -> _Spot:
    """Where pydantic's location lies: it mixes keys with the names of variants and of union
    members, which are left out here.
    """
    place: Place = ()
    field: FieldInfo | None = None
    section: type[Section] = Recipe
    variants: tuple[type[Section], ...] = (Recipe,)
    for step in location:
        value = _value_at(values, place)
        if len(variants) > 1 and isinstance(step, str):
            variants = tuple(variant for variant in variants if kind_of(variant) == step)
        elif variants and isinstance(step, str):
            section, place = variants[0], (*place, step)
            field = section.model_fields.get(step)
            variants = sections_in(field.annotation) if field else ()
        elif isinstance(step, int) or (isinstance(value, dict) and step in value):
            place = (*place, step)
    return _Spot(place, _value_at(values, place), section, field)


def _problem(
    details: ErrorDetails, values: dict[str, Value], origins: dict[Place, str], name: str
) -> str:
    """One problem in words: where, what was given, what may stand there."""
    spot = _spot(details["loc"], values)
    where = _origin(
        (*spot.place, "kind") if details["type"].startswith("union_tag") else spot.place,
        origins,
        name,
    )
    return (
        f"{where}:"
        f" {dotted(spot.place) or 'the recipe'}{_reason(details['type'], spot, details['msg'])}"
    )


def _reason(problem: str, spot: _Spot, message: str) -> str:
    """What is wrong at a spot, to be read after its key."""
    if problem == "extra_forbidden":
        return f" is not a key{_nearest(spot)}"
    if spot.field is None:
        return f": {message}"
    allowed = type_text(spot.field.annotation, spot.field.metadata)
    if problem == "missing":
        required = [
            f"{spot.place[-1]}.{name}"
            for section in sections_in(spot.field.annotation)
            for name, field in section.model_fields.items()
            if section is spot.field.annotation and field.is_required()
        ]
        return f" is missing and has no default; give {allowed}" + (
            f" with at least {', '.join(required)}" if required else f": {spot.field.description}"
        )
    if problem in ("union_tag_invalid", "union_tag_not_found") and isinstance(spot.value, dict):
        kinds = [str(kind_of(variant)) for variant in sections_in(spot.field.annotation)]
        if "kind" not in spot.value:
            meant = question([f"kind instead of {key}" for key in nearest("kind", spot.value)])
            return f".kind is missing; give one of {', '.join(kinds)}{meant}"
        kind = str(spot.value["kind"])
        return (
            f".kind: {_shown(spot.value['kind'])} is not one of"
            f" {', '.join(kinds)}{question(nearest(kind, kinds))}"
        )
    meant = (
        question(nearest(spot.value, choices(spot.field.annotation)))
        if isinstance(spot.value, str)
        else ""
    )
    quotes = (
        "; put it in quotes to make it text"
        if problem == "string_type" and isinstance(spot.value, int | float)
        else ""
    )
    return f": {_shown(spot.value)} cannot stand here; give {allowed}{meant}{quotes}"


def _nearest(spot: _Spot) -> str:
    """`; did you mean ...?` for a key that is not one, or the variant it belongs to."""
    *parent, last = (step for step in spot.place if isinstance(step, str))
    valid = [*spot.section.model_fields]
    prefix = dotted(spot.place[:-1]) + "." if len(spot.place) > 1 else ""
    owner = _field_at(spot.place[:-1])
    if others := [
        str(kind_of(variant))
        for variant in (sections_in(owner.annotation) if owner else ())
        if last in variant.model_fields
    ]:
        return f" of {prefix}kind {kind_of(spot.section)}; it belongs to kind {' or '.join(others)}"
    if any(isinstance(step, int) for step in spot.place) and (near := nearest(last, valid)):
        return question([prefix + key for key in near])
    return (
        question(nearest_keys(last, tuple(parent)))
        or f"; `nearfar recipe explain` lists all keys, here stand {', '.join(valid)}"
    )


def _field_at(place: Place) -> FieldInfo | None:
    """The schema's field at a place; None at the root and where the schema has none. Items of a
    list have the list's field.
    """
    sections: tuple[type[Section], ...] = (Recipe,)
    field: FieldInfo | None = None
    for step in place:
        if isinstance(step, str):
            field = next(
                (
                    section.model_fields[step]
                    for section in sections
                    if step in section.model_fields
                ),
                None,
            )
            sections = sections_in(field.annotation) if field else ()
    return field


def _value_at(values: Value, place: Place) -> Value:
    """What is given at a place; None where nothing is."""
    for step in place:
        if isinstance(values, dict):
            values = values.get(str(step))
        elif isinstance(values, list) and isinstance(step, int) and step < len(values):
            values = values[step]
        else:
            return None
    return values


def _origin(place: Place, origins: dict[Place, str], otherwise: str = "") -> str:
    """Where the value at `place`, or else the section around it, was given."""
    return next(
        (origins[place[:depth]] for depth in range(len(place), 0, -1) if place[:depth] in origins),
        otherwise,
    )


def _shown(value: Value) -> str:
    """A value as it may stand in a message: one line, not long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
