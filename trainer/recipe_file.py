"""A recipe file, with overrides, to a checked `Recipe` and back. Every problem is reported at once, with its place and the nearest key."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from trainer.errors import BadRecipe
from trainer.recipe import Recipe, Section
from trainer.recipe_keys import choices, kind_of, nearest_keys, question, sections_in, type_text
from trainer.recipe_text import Place, Value, dotted, dump, parse, parse_word, read_text

_COMMAND_LINE = "command line"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file with `key.sub=value` overrides put in; raises `BadRecipe` that names every problem.

    A section with variants whose `kind` is left out is the default variant. The value of an override is one YAML word or
    quoted text, a list `[...]` or a map `{...}`; of two overrides of one key the later counts.
    """
    tree = parse(read_text(Path(path)), str(path))
    if not isinstance(tree.value, dict):
        given = "is empty" if tree.value is None else f"holds {_shown(tree.value)}"
        raise BadRecipe(f"recipe {path} {given}; a recipe is a map with at least name, model and data")
    origins = {place: f"{path}:{line}" for place, line in tree.lines.items()}
    values = copy.deepcopy(tree.value)
    _override(values, overrides, origins)
    _fill_kinds(values, Recipe)
    return _checked(values, origins, str(path))


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults written out; `load_recipe` reads it back to an equal recipe."""
    blocks = [dump({name: value}) for name, value in recipe.model_dump(mode="json").items()]
    return "".join("\n" + block if ":\n" in block else block for block in blocks)


def _checked(values: dict[str, Value], origins: dict[Place, str], name: str) -> Recipe:
    """The values as a `Recipe`. Read as JSON, because there strict means what a person expects: lists fill tuples, 1 is a number."""
    try:
        return Recipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = [_problem(details, values, origins, name) for details in error.errors(include_url=False, include_context=False)]
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        raise BadRecipe(problems[0])
    raise BadRecipe(f"{len(problems)} problems in recipe {name}\n" + "\n".join(f"  {problem}" for problem in problems))


# Overrides


def _override(values: dict[str, Value], overrides: Sequence[str], origins: dict[Place, str]) -> None:
    """Puts `key.sub=value` settings into `values`; kinds first, so that the order of the arguments does not matter."""
    settings = [_setting(override) for override in overrides]
    for place, value in sorted(settings, key=lambda setting: setting[0][-1] != "kind"):
        if place[-1] == "kind":
            _change_kind(values, place[:-1], value)
        _set(values, place, value)
        for stale in [known for known in origins if known[: len(place)] == place]:
            del origins[stale]
        origins[place] = _COMMAND_LINE


def _setting(override: str) -> tuple[Place, Value]:
    """The place and value of one override."""
    key, equals, text = override.partition("=")
    if not equals:
        keys = nearest_keys(key.split(".")[-1])
        raise BadRecipe(f"{_COMMAND_LINE}: {override} has no '='; write key=value, such as {(keys or ['optimization.epochs'])[0]}=...")
    steps = key.strip().split(".")
    if not all(steps):
        raise BadRecipe(f"{_COMMAND_LINE}: {override} has an empty key; write key=value, such as optimization.epochs=4")
    place = tuple(int(step) if step.isdecimal() else step for step in steps)
    return place, parse(text, f"{_COMMAND_LINE}: {key}").value if text[:1] in ("[", "{", "'", '"') else parse_word(text)


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
            raise BadRecipe(f"{_COMMAND_LINE}: {dotted(place)} cannot be set: {dotted(place[:depth])} {held}")
        current = current[step]


def _change_kind(values: dict[str, Value], place: Place, kind: Value) -> None:
    """Takes the keys that only the file's variant has out of the section at `place`, before its `kind` changes."""
    section: Any = values
    field: FieldInfo | None = None
    variants: tuple[type[Section], ...] = (Recipe,)
    for step in place:
        if not isinstance(step, int):
            field = next((variant.model_fields[step] for variant in variants if step in variant.model_fields), None)
            variants = sections_in(field.annotation) if field else ()
        section = section.get(step) if isinstance(section, dict) else section[step] if isinstance(section, list) and len(section) > step else None
    if not isinstance(section, dict) or len(variants) < 2:
        return
    fields = {kind_of(variant): set(variant.model_fields) for variant in variants}
    before = section.get("kind", _default_kind(field))
    if isinstance(before, str) and isinstance(kind, str) and {before, kind} <= fields.keys():
        for key in fields[before] - fields[kind]:
            section.pop(key, None)


def _default_kind(field: FieldInfo | None) -> str | None:
    return kind_of(type(field.default)) if field and isinstance(field.default, Section) else None


def _fill_kinds(values: Value, section: type[Section]) -> None:
    """Writes the default's `kind` into every section with variants that has none."""
    for name, field in section.model_fields.items():
        inner, variants = values.get(name) if isinstance(values, dict) else None, sections_in(field.annotation)
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
    """Where pydantic's location lies: it mixes keys with the names of variants and of union members, which are left out here."""
    place: Place = ()
    value: Any = values
    field: FieldInfo | None = None
    section: type[Section] = Recipe
    variants: tuple[type[Section], ...] = (Recipe,)
    tagged = False
    for step in location:
        if len(variants) > 1 and not tagged and not isinstance(step, int):
            variants, tagged = tuple(variant for variant in variants if kind_of(variant) == step), True
            continue
        if variants and not isinstance(step, int):
            section, tagged = variants[0], False
            field = section.model_fields.get(str(step))
            variants = sections_in(field.annotation) if field else ()
        elif not (isinstance(value, dict) and step in value) and not (isinstance(value, list) and isinstance(step, int)):
            continue
        place = (*place, step)
        value = value[cast(Any, step)] if isinstance(value, list) else value.get(step) if isinstance(value, dict) else None
    return _Spot(place, value, section, field)


def _problem(details: ErrorDetails, values: dict[str, Value], origins: dict[Place, str], name: str) -> str:
    """One problem in words: where, what was given, what may stand there."""
    spot = _spot(details["loc"], values)
    where = next((origins[spot.place[:depth]] for depth in range(len(spot.place), 0, -1) if spot.place[:depth] in origins), name)
    return f"{where}: {dotted(spot.place) or 'the recipe'}{_reason(details['type'], spot, details['msg'])}"


def _reason(problem: str, spot: _Spot, message: str) -> str:
    """What is wrong at a spot, to be read after its key."""
    if problem == "extra_forbidden":
        return f" is not a key{_nearest(spot)}"
    if spot.field is None:
        return f": {message}"
    allowed = type_text(spot.field.annotation, spot.field.metadata)
    if problem == "missing":
        return f" is missing and has no default; give {allowed}: {spot.field.description or 'a section of its own'}"
    if problem in ("union_tag_invalid", "union_tag_not_found") and isinstance(spot.value, dict):
        kinds = [str(kind_of(variant)) for variant in sections_in(spot.field.annotation)]
        if "kind" not in spot.value:
            meant = question([f"kind instead of {key}" for key in get_close_matches("kind", spot.value, n=1)])
            return f".kind is missing; give one of {', '.join(kinds)}{meant}"
        kind = str(spot.value["kind"])
        return f".kind: {_shown(spot.value['kind'])} is not one of {', '.join(kinds)}{question(get_close_matches(kind, kinds, n=1))}"
    meant = question(get_close_matches(spot.value, choices(spot.field.annotation), n=1)) if isinstance(spot.value, str) else ""
    quotes = "; put it in quotes to make it text" if problem == "string_type" and isinstance(spot.value, int | float) else ""
    return f": {_shown(spot.value)} cannot stand here; give {allowed}{meant}{quotes}"


def _nearest(spot: _Spot) -> str:
    """`; did you mean ...?` for a key that is not one, or the variant it belongs to."""
    *parent, last = (step for step in spot.place if isinstance(step, str))
    valid = [*spot.section.model_fields]
    prefix = dotted(spot.place[:-1]) + "." if len(spot.place) > 1 else ""
    if near := get_close_matches(last, valid, n=3):
        return question([prefix + key for key in near])
    owner = sections_in(_field_at(tuple(parent)))
    if others := [str(kind_of(variant)) for variant in owner if last in variant.model_fields]:
        return f" of {prefix}kind {kind_of(spot.section)}; it belongs to kind {' or '.join(others)}"
    return question(nearest_keys(last, tuple(parent))) or f"; `nearfar recipe explain` lists all keys, here stand {', '.join(valid)}"


def _field_at(place: tuple[str, ...]) -> Any:
    """The type of the section at `place`; the recipe itself at the root."""
    annotation: Any = Recipe
    for step in place:
        annotation = next((section.model_fields[step].annotation for section in sections_in(annotation) if step in section.model_fields), None)
    return annotation


def _shown(value: Value) -> str:
    """A value as it may stand in a message: one line, not long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
