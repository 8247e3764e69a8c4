"""The recipe of a run, section by section."""

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
    """A finding about the recipe; the recipe, and the names of its sections that are not broken."""
    with findings.about("recipe"):
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
    return _unbroken_sections(tree, request.overrides)


def _unbroken_sections(
    tree: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[Recipe, frozenset[str]]:
    """The recipe without its broken sections, and the names of the others."""
    values, settings = _stand_ins(tree, overrides), list[str]()
    section_of = {
        override: override.partition("=")[0].partition(".")[0].strip() for override in overrides
    }
    broken_sections = values.keys() - tree.keys() - set(section_of.values())
    with TemporaryDirectory() as folder:
        trial = Path(folder) / "recipe.yaml"
        for section in sorted({*tree, *section_of.values()}, key=_place_in_trial):
            own_settings = [override for override in overrides if section_of[override] == section]
            candidate = values | ({section: tree[section]} if section in tree else {})
            trial.write_text(dump(candidate), encoding="utf-8")
            try:
                load_recipe(trial, [*settings, *own_settings])
            except BadRecipe:
                broken_sections.add(section)
            else:
                values, settings = candidate, [*settings, *own_settings]
        trial.write_text(dump(values), encoding="utf-8")
        recipe = load_recipe(trial, settings)
        return recipe, frozenset(type(recipe).model_fields) - broken_sections


def _stand_ins(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What a recipe of this kind must have; it stands in for sections that are broken."""
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
    """Sections that others are checked against come first."""
    order = ("kind", "data", "optimization", "refresh", "model", "objective")
    return (order.index(section) if section in order else len(order)), section
