"""Describes the problems of a recipe: their place, the given value, and what to write instead."""

import re
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, to_jsonable_python

from trainer.recipe.keys import (
    all_keys,
    field_at,
    kind_of,
    path_of,
    paths_of,
    sections_in,
    sections_of,
    suggestion_for,
)
from trainer.recipe.nearest import nearest, question
from trainer.recipe.other_names import nearest_value
from trainer.recipe.raw_recipe import RawRecipe, short_text
from trainer.recipe.schema.families import FAMILIES, RecipeClass
from trainer.recipe.schema.section import Section
from trainer.recipe.type_text import choices, one_of, type_text
from trainer.recipe.yaml_text import Place, YamlValue, key_name

REPLACED_KEYS = {"machine.recompute": (False, "machine.kept_tokens: 0")}
"""Keys of earlier versions, with the value without an effect and the line for another value."""

_KEY = re.compile(r"[a-z_]+(\.[a-z_0-9]+)+")


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in the values, with its section and field in the recipe's family."""

    place: Place
    value: YamlValue
    section: type[Section]
    """The section to which this place belongs, or should belong."""
    field: FieldInfo | None


def problems(error: ValidationError, raw: RawRecipe, family: RecipeClass) -> list[str]:
    """Returns one sentence per problem, in the order of the family's keys."""
    spots = [(details, _spot(details, raw, family)) for details in _details(error)]
    return list(
        dict.fromkeys(
            f"{_origin(details, spot, raw)}: {_sentence(details, spot, family)}"
            for details, spot in spots
        )
    )


def surplus(error: ValidationError, raw: RawRecipe, family: RecipeClass) -> list[Place]:
    """Returns the places of unknown keys without an effect.

    Recipes of earlier versions contain all keys of all families, as null or with the default.
    """
    extra = [details for details in _details(error) if details["type"] == "extra_forbidden"]
    spots = [_spot(details, raw, family) for details in extra]
    return [spot.place for spot in spots if _sets_nothing(spot, family)]


def _sets_nothing(spot: _Spot, family: RecipeClass) -> bool:
    path = path_of(spot.place)
    if ".".join(path) in REPLACED_KEYS:
        return spot.value == REPLACED_KEYS[".".join(path)][0]
    fields = [
        field
        for key in all_keys()
        if key.path == path and _kind(family) not in key.fields
        for field in key.fields.values()
    ]
    defaults = [to_jsonable_python(field.default) for field in fields if not field.is_required()]
    return bool(fields) and (spot.value is None or spot.value in defaults)


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False)


def _kind(family: RecipeClass) -> str:
    return str(kind_of(family))


def _spot(details: ErrorDetails, raw: RawRecipe, family: RecipeClass) -> _Spot:
    """Returns the spot of a problem.

    The location in pydantic's error also contains names of variants and union members, which are
    removed here.
    """
    place: Place = ()
    field: FieldInfo | None = None
    section: type[Section] = family
    variants: tuple[type[Section], ...] = (family,)
    for step in details["loc"]:
        value = raw.at(place)
        if len(variants) > 1 and isinstance(step, str):
            variants = tuple(variant for variant in variants if kind_of(variant) == step)
        elif variants and isinstance(step, str):
            section, place = variants[0], (*place, step)
            field = section.model_fields.get(step)
            variants = sections_in(field)
        elif isinstance(step, int) or (isinstance(value, dict) and step in value):
            place = (*place, step)
    return _Spot(place, raw.at(place), section, field)


def _origin(details: ErrorDetails, spot: _Spot, raw: RawRecipe) -> str:
    """Returns the origin of a problem. For a contradiction it is that of the first key it names."""
    place = spot.place
    if details["type"].startswith("union_tag"):
        place = (*place, "kind")
    elif details["type"] == "value_error" and (key := _KEY.search(details["msg"])):
        place = tuple(key[0].split("."))
    return raw.origin(place)


def _sentence(details: ErrorDetails, spot: _Spot, family: RecipeClass) -> str:
    """Describes the problem at a spot, beginning with its key."""
    key = key_name(spot.place)
    match details["type"]:
        case "value_error":  # a contradiction, which the schema describes
            return details["msg"].removeprefix("Value error, ")
        case "extra_forbidden":
            return _no_key(spot, family)
        case "missing":
            return f"{key} is missing and has no default; give {_expected_text(spot)}"
        case "union_tag_invalid" | "union_tag_not_found" if isinstance(spot.value, dict):
            return _no_variant(spot, spot.value, family)
    if spot.field is None:
        return f"{key or 'the recipe'}: {details['msg']}"
    suggestion = (
        nearest_value(spot.value, choices(spot.field.annotation))
        if isinstance(spot.value, str)
        else ""
    )
    number = details["type"] == "string_type" and isinstance(spot.value, int | float)
    quotes = "; put it in quotes to make it text" if number else ""
    type_name = type_text(spot.field.annotation, spot.field.metadata)
    return (
        f"{key}: {short_text(spot.value)} is not allowed here; give {type_name}{suggestion}{quotes}"
    )


def _expected_text(spot: _Spot) -> str:
    """Describes the valid values of a missing key."""
    assert spot.field is not None
    type_name = type_text(spot.field.annotation, spot.field.metadata)
    required_keys = [
        f"{spot.place[-1]}.{name}"
        for section in sections_of(spot.field.annotation)
        for name, field in section.model_fields.items()
        if section is spot.field.annotation and field.is_required()
    ]
    if required_keys:
        return f"{type_name} with at least {', '.join(required_keys)}"
    return f"{type_name}: {spot.field.description}"


def _no_variant(spot: _Spot, section: dict[str, YamlValue], family: RecipeClass) -> str:
    """Describes a section's `kind` that is missing, unknown, or of another family."""
    key = f"{key_name(spot.place)}.kind"
    kinds = [str(kind_of(variant)) for variant in sections_in(spot.field)]
    if "kind" not in section:
        suggestion = question([f"kind instead of {name}" for name in nearest("kind", section)])
        return f"{key} is missing; give one of {', '.join(kinds)}{suggestion}"
    kind = section["kind"]
    owners = [
        name
        for name, owner in FAMILIES.items()
        if str(kind) in map(kind_of, sections_in(field_at(spot.place, owner)))
    ]
    if owners:
        advice = f"give one of {', '.join(kinds)}, or change the recipe's kind"
        return _belongs(f"{key}: {kind}", owners, family, advice)
    suggestion = nearest_value(str(kind), kinds)
    return f"{key}: {short_text(kind)} is not one of {', '.join(kinds)}{suggestion}"


def _no_key(spot: _Spot, family: RecipeClass) -> str:
    """Describes a key that is unknown, or belongs to another variant or family."""
    key, path, kind = key_name(spot.place), path_of(spot.place), _kind(family)
    if key in REPLACED_KEYS:
        return f"{key} was replaced; write {REPLACED_KEYS[key][1]}"
    variants = sections_in(field_at(spot.place[:-1], family)) if len(spot.place) > 1 else ()
    owning = [str(kind_of(variant)) for variant in variants if path[-1] in variant.model_fields]
    if owning:
        prefix = f"{key_name(spot.place[:-1])}.kind"
        return (
            f"{key} is not a key of {prefix} {kind_of(spot.section)}; it belongs to kind"
            f" {one_of(owning)}"
        )
    if owners := [name for name in FAMILIES if path in paths_of(name)]:
        return _belongs(key, owners, family, "remove it, or change the kind")
    names = list(spot.section.model_fields)
    near = nearest(path[-1], names) if len(path) < len(spot.place) else []
    suggestion = question([key_name((*spot.place[:-1], name)) for name in near]) or suggestion_for(
        path[-1], path[:-1], kind
    )
    return f"{key} is not a key" + (
        suggestion or f"; the keys here are {', '.join(names)} (`nearfar recipe explain` lists all)"
    )


def _belongs(key: str, owners: list[str], family: RecipeClass, advice: str) -> str:
    return (
        f"{key} belongs to kind: {one_of(owners)}, but this recipe has kind {_kind(family)};"
        f" {advice}"
    )
