"""Recipes that earlier versions wrote are read: `written_before/` holds what they printed with
`nearfar recipe show`, every key of every family written out.
"""

from pathlib import Path

import pytest

from trainer.errors import BadRecipe
from trainer.recipe.load import dump_recipe, load_recipe
from trainer.recipe.yaml_text import YamlValue, parse

WRITTEN = sorted((Path(__file__).parent / "written_before").glob("*.yaml"))
RECIPES = Path(__file__).parents[2] / "recipes"


def leaves(value: YamlValue, place: tuple[str, ...] = ()) -> dict[str, YamlValue]:
    """Dotted keys and their values."""
    if not isinstance(value, dict) or not value:
        return {".".join(place): value}
    return {
        key: inner
        for name, section in value.items()
        for key, inner in leaves(section, (*place, name)).items()
    }


LATER_KEYS = {
    "checkpoints.every_minutes",
    "checkpoints.every_steps",
    "checkpoints.keep_last",
    "data.corpus",
    "data.general",
    "machine.compile_layers",
    "machine.hang_minutes",
    "optimization.min_steps",
    "validation.interpolate",
}
"""Keys that these files are older than; none of them changes what is learned."""


def test_old_recipes_of_all_kinds_exist() -> None:
    assert {load_recipe(path).kind for path in WRITTEN} == {
        "bi_encoder",
        "colbert",
        "cross_encoder",
    }
    assert all("late_interaction:" in path.read_text() for path in WRITTEN)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_old_recipe_keeps_every_value_that_says_something(path: Path) -> None:
    before = leaves(parse(path.read_text(encoding="utf-8"), path.name).value)
    now = leaves(parse(dump_recipe(load_recipe(path)), path.name).value)
    assert {key: before[key] for key in now if key in before} == {
        key: value for key, value in now.items() if key in before
    }
    mining_keys = {"refresh.max_documents"} if "refresh.negatives" in before else set[str]()
    assert now.keys() - before.keys() == LATER_KEYS | mining_keys
    dropped = {before[key] for key in before.keys() - now.keys()}
    assert dropped <= {None, "orthogonal", 0.0}, "defaults of keys that another kind has"
    assert len(before.keys() - now.keys()) > 3


CHANGES = {
    "bi-encoder-lora": ["validation.interpolate=true"],
    "bi-encoder-full": ["optimization.epochs=4"],
}
"""What the recipes that we ship say otherwise by now."""


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_old_recipe_equals_the_one_that_we_ship(path: Path) -> None:
    changes = CHANGES.get(path.stem, [])
    assert load_recipe(path, changes) == load_recipe(RECIPES / path.name)


def test_value_of_another_kind_is_not_dropped(tmp_path: Path) -> None:
    old = WRITTEN[0].read_text(encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(old.replace("rerank_depth: null", "rerank_depth: 30"))
    with pytest.raises(BadRecipe, match="rerank_depth belongs to kind: cross_encoder"):
        load_recipe(path)


def test_key_that_was_replaced_names_the_line_to_write(tmp_path: Path) -> None:
    old = WRITTEN[0].read_text(encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(old.replace("  kept_tokens: auto", "  recompute: false"))
    assert load_recipe(path) == load_recipe(WRITTEN[0])
    path.write_text(old.replace("  kept_tokens: auto", "  recompute: true"))
    with pytest.raises(
        BadRecipe, match=r"machine\.recompute was replaced; write machine\.kept_tokens: 0"
    ):
        load_recipe(path)
