"""Reads and writes recipe files. All problems are reported together, each with its place and the
nearest key.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.errors import BadRecipe
from trainer.recipe.keys import default_kind, kind_of, sections_in
from trainer.recipe.other_names import nearest_value
from trainer.recipe.overrides import put_in, setting
from trainer.recipe.problems import problems, surplus
from trainer.recipe.raw_recipe import RawRecipe, short_text
from trainer.recipe.schema.families import DEFAULT_KIND, FAMILIES, Recipe, RecipeClass
from trainer.recipe.schema.section import Section
from trainer.recipe.shipped import recipe_file
from trainer.recipe.yaml_text import Place, YamlValue, dump, parse, read_text


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads the recipe in a YAML file, or the shipped recipe of that name, and applies overrides.

    A recipe without `kind` is for a bi-encoder, and a section without `kind` is the default
    variant. An override has the form `key.sub=value`. Its value is one YAML word, quoted text, a
    list `[...]` or a map `{...}`. If a key is overridden twice, the later value counts. Raises
    `BadRecipe` that lists all problems.
    """
    file = recipe_file(path)
    tree = parse(read_text(file), str(file))
    if not isinstance(tree.value, dict):
        content = "is empty" if tree.value is None else f"contains {short_text(tree.value)}"
        raise BadRecipe(
            f"recipe {file} {content}; a recipe is a map with at least name, model and data"
        )
    return _recipe(RawRecipe.from_tree(copy.deepcopy(tree.value), tree, str(file)), overrides)


def recipe_from_values(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Returns the recipe in a dictionary with the keys of a recipe file.

    Overrides are applied as in `load_recipe`. Raises `BadRecipe` that lists all problems.
    """
    plain = json.loads(json.dumps(values, default=str))
    return _recipe(RawRecipe(plain, {}, "the given recipe"), overrides)


def _recipe(raw: RawRecipe, overrides: Sequence[str]) -> Recipe:
    settings = [setting(override) for override in overrides]
    family = _family(raw, settings)
    put_in(settings, raw, family)
    _fill_kinds(raw.values, family)
    return _validated_recipe(raw, family)


def dump_recipe(recipe: Recipe) -> str:
    """Returns the recipe as YAML with all defaults. `load_recipe` reads it as an equal recipe."""
    blocks = [dump({name: value}) for name, value in recipe.model_dump(mode="json").items()]
    return "".join("\n" + block if ":\n" in block else block for block in blocks)


def _family(raw: RawRecipe, settings: Sequence[tuple[Place, YamlValue]]) -> RecipeClass:
    """Returns the class of the recipe's `kind`. Raises BadRecipe for an unknown kind."""
    kinds = [value for place, value in settings if place == ("kind",)]
    kind = kinds[-1] if kinds else raw.values.setdefault("kind", DEFAULT_KIND)
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    origin = "command line" if kinds else raw.origin(("kind",))
    raise BadRecipe(
        f"{origin}: kind: {short_text(kind)} is not one of {', '.join(FAMILIES)}"
        f"{nearest_value(str(kind), FAMILIES)}"
    )


def _fill_kinds(values: YamlValue, section: type[Section]) -> None:
    """Adds the default `kind` to each section that has variants but no `kind`."""
    for name, field in section.model_fields.items():
        inner = values.get(name) if isinstance(values, dict) else None
        variants = sections_in(field)
        if not isinstance(inner, dict) or not variants:
            continue
        if len(variants) > 1 and (kind := default_kind(field)):
            inner.setdefault("kind", kind)
        for variant in variants:
            if kind_of(variant) in (None, inner.get("kind")):
                _fill_kinds(inner, variant)


def _validated_recipe(raw: RawRecipe, family: RecipeClass) -> Recipe:
    """Validates the values as a recipe.

    They are validated as JSON, because pydantic's strict mode then accepts a list for a tuple and 1
    for a float.
    """
    try:
        return family.model_validate_json(json.dumps(raw.values))
    except ValidationError as error:
        if places := surplus(error, raw, family):
            for place in places:
                raw.remove(place)
            return _validated_recipe(raw, family)
        sentences = problems(error, raw, family)
    if len(sentences) == 1:
        raise BadRecipe(sentences[0])
    raise BadRecipe(
        f"{len(sentences)} problems in recipe {raw.name}\n"
        + "\n".join(f"  {sentence}" for sentence in sentences)
    )
