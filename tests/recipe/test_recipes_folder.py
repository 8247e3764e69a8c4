"""Law 12 for the recipes we ship: each loads, dumps and loads to itself, and says everything a
recipe can say.
"""

import re
from pathlib import Path

import pytest

from trainer.recipe.load import dump_recipe, load_recipe
from trainer.recipe.schema import Contrastive, Cosent, FullTuning, Lora, Recipe, Triplet
from trainer.recipe.yaml_text import parse

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


def test_the_recipes_are_there() -> None:
    assert {path.stem for path in RECIPES} >= {
        "quickstart",
        "bi-encoder-lora",
        "bi-encoder-full",
        "scored-pairs",
        "triplet",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
class TestEach:
    def test_law_12_loads_dumps_loads_to_itself(self, path: Path, tmp_path: Path) -> None:
        recipe = load_recipe(path)
        dumped = tmp_path / "recipe.yaml"
        dumped.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(dumped) == recipe
        assert dump_recipe(load_recipe(dumped)) == dump_recipe(recipe)

    def test_is_complete(self, path: Path) -> None:
        given = parse(path.read_text(encoding="utf-8"), path.name).value
        resolved = Recipe.model_validate(load_recipe(path)).model_dump(mode="json")
        assert given == resolved, "every key written out, in the order of the tree"
        assert list(given) == list(resolved)  # type: ignore[arg-type]

    def test_header(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# yaml-language-server: $schema=../docs/recipe.schema.json\n")
        assert (path.parent / "../docs/recipe.schema.json").is_file()
        header = [line for line in text.splitlines() if line.startswith("#")]
        assert any(f"nearfar fit recipes/{path.name}" in line for line in header)
        assert any(line.startswith("# Hardware: ") for line in header)
        assert any(re.match(r"# measured(: not yet| [0-9-]{10} on .+)$", line) for line in header)

    def test_is_named_like_its_file(self, path: Path) -> None:
        assert load_recipe(path).name == path.stem


def test_each_shows_what_it_is_for() -> None:
    recipes = {path.stem: load_recipe(path) for path in RECIPES}
    assert isinstance(recipes["scored-pairs"].objective, Cosent)
    assert isinstance(recipes["triplet"].objective, Triplet)
    assert recipes["triplet"].data.negatives_per_query == 1
    assert isinstance(recipes["bi-encoder-full"].model.tuning, FullTuning)
    assert isinstance(recipes["quickstart"].model.tuning, Lora)
    assert isinstance(recipes["quickstart"].objective, Contrastive)


def test_the_template_takes_one_s_own_data() -> None:
    recipe = load_recipe(
        FOLDER / "bi-encoder-lora.yaml",
        ["data.train=my.jsonl", "model.backbone=BAAI/bge-base-en-v1.5"],
    )
    assert (recipe.data.train, recipe.model.backbone) == ("my.jsonl", "BAAI/bge-base-en-v1.5")
