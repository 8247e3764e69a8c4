"""Applies `key.sub=value` settings of the command line to the values of a recipe file."""

from collections.abc import Sequence
from typing import Any

from trainer.errors import BadRecipe
from trainer.recipe.keys import default_kind, field_at, kind_of, nearest_keys, sections_in
from trainer.recipe.other_names import advice
from trainer.recipe.raw_recipe import RawRecipe, short_text
from trainer.recipe.schema.families import RecipeClass
from trainer.recipe.yaml_text import Place, YamlValue, key_name, parse, parse_word

COMMAND_LINE = "command line"


def setting(override: str) -> tuple[Place, YamlValue]:
    """Returns place and value of an override. Raises BadRecipe without `=` or with an empty key."""
    key, equals, text = override.partition("=")
    if not equals:
        name = key.split(".")[-1]
        keys = nearest_keys(name)
        raise BadRecipe(
            f"{COMMAND_LINE}: {override} has no '='; write key=value, such as"
            f" {(keys or ['optimization.epochs'])[0]}=...{advice(name)}"
        )
    steps = key.strip().split(".")
    if not all(steps):
        raise BadRecipe(
            f"{COMMAND_LINE}: {override} has an empty key; write key=value, such as"
            " optimization.epochs=4"
        )
    place = tuple(int(step) if step.isdecimal() else step for step in steps)
    is_quoted = text[:1] in ("[", "{", "'", '"')
    return place, parse(text, f"{COMMAND_LINE}: {key}").value if is_quoted else parse_word(text)


def put_in(
    settings: Sequence[tuple[Place, YamlValue]], raw: RawRecipe, family: RecipeClass
) -> None:
    """Applies settings to the values of the file, with the command line as their origin.

    Raises BadRecipe if a place does not exist.
    """
    for place, value in settings:
        if place[-1] == "kind" and len(place) > 1:
            _drop_other_variant(raw, place[:-1], value, family)
        _set(raw.values, place, value)
        for inner_place in [key for key in raw.origins if key[: len(place)] == place]:
            del raw.origins[inner_place]
        for depth in range(1, len(place) + 1):
            raw.origins.setdefault(place[:depth], COMMAND_LINE)


def _set(values: dict[str, YamlValue], place: Place, value: YamlValue) -> None:
    """Sets the value at `place`, and creates missing sections on the way."""
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
            raise BadRecipe(
                f"{COMMAND_LINE}: {key_name(place)} cannot be set: {key_name(place[:depth])} is"
                f" {short_text(current)}, which has no {step}"
            )
        current = current[step]


def _drop_other_variant(raw: RawRecipe, place: Place, kind: YamlValue, family: RecipeClass) -> None:
    """Prepares the section at `place` for another variant.

    It removes the keys of the file that only the former variant has.
    """
    section, field = raw.at(place), field_at(place, family)
    if not isinstance(section, dict) or field is None:
        return
    keys = {kind_of(variant): set(variant.model_fields) for variant in sections_in(field)}
    former = section.get("kind", default_kind(field))
    if isinstance(former, str) and isinstance(kind, str) and {former, kind} <= keys.keys():
        for key in keys[former] - keys[kind]:
            if raw.origin((*place, key)) != COMMAND_LINE:
                section.pop(key, None)
