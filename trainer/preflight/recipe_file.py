"""Checks the recipe of a run, section by section."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trainer.errors import BadRecipe
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import Request
from trainer.recipe.load import load_recipe
from trainer.recipe.schema.families import Recipe
from trainer.recipe.shipped import recipe_file
from trainer.recipe.yaml_text import dump, parse, read_text


def check_recipe_file(findings: Findings, request: Request) -> tuple[Recipe | None, frozenset[str]]:
    """Adds a finding about the recipe. Returns the recipe and the names of its valid sections."""
    with findings.catch("recipe"):
        recipe = load_recipe(request.recipe, request.overrides)
        batch_size = recipe.optimization.batch_size
        text = f"{recipe.name}, {recipe.objective.kind}, {batch_size} queries per step"
        findings.add("ok", "recipe", f"{request.recipe}: {text}")
        return recipe, frozenset(type(recipe).model_fields)
    try:
        tree = parse(read_text(recipe_file(request.recipe)), str(request.recipe)).value
    except BadRecipe:
        return None, frozenset()
    if not isinstance(tree, dict):
        return None, frozenset()
    return _valid_sections(tree, request.overrides)


def _valid_sections(
    tree: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[Recipe, frozenset[str]]:
    """Returns the recipe without its invalid sections, and the names of the valid ones."""
    values, settings = _placeholders(tree, overrides), list[str]()
    section_of = {
        override: override.partition("=")[0].partition(".")[0].strip() for override in overrides
    }
    invalid_sections = values.keys() - tree.keys() - set(section_of.values())
    with TemporaryDirectory() as folder:
        trial = Path(folder) / "recipe.yaml"
        for section in sorted({*tree, *section_of.values()}, key=_place_in_trial):
            own_settings = [override for override in overrides if section_of[override] == section]
            candidate = values | ({section: tree[section]} if section in tree else {})
            trial.write_text(dump(candidate), encoding="utf-8")
            try:
                load_recipe(trial, [*settings, *own_settings])
            except BadRecipe:
                invalid_sections.add(section)
            else:
                values, settings = candidate, [*settings, *own_settings]
        trial.write_text(dump(values), encoding="utf-8")
        recipe = load_recipe(trial, settings)
        return recipe, frozenset(type(recipe).model_fields) - invalid_sections


def _placeholders(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the required sections of a recipe of this kind. They replace invalid sections."""
    settings = [override.partition("=") for override in overrides]
    kinds = [tree.get("kind"), *(value for key, _, value in settings if key == "kind")]
    values: dict[str, Any] = {
        "name": "unread",
        "model": {"backbone": "unread"},
        "data": {"train": "unread"},
    }
    if kinds[-1] == "cross_encoder":
        values["objective"] = {"kind": "pointwise", "graded": True}
    return values


def _place_in_trial(section: str) -> tuple[int, str]:
    """Returns the sort key of a section. Sections that others depend on come first."""
    order = ("kind", "data", "optimization", "refresh", "model", "objective")
    return (order.index(section) if section in order else len(order)), section
