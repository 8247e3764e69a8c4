"""Law 12 for the recipes we ship: each loads, dumps and loads to itself. A file says only what
differs from the defaults, and why.
"""

import re
from pathlib import Path

import pytest

from trainer.recipe.load import dump_recipe, load_recipe
from trainer.recipe.schema.families import DEFAULT_KIND, FAMILIES, CrossEncoderRecipe
from trainer.recipe.schema.model import FullTuning, LoraTuning
from trainer.recipe.schema.objective import (
    BiEncoderContrastiveObjective,
    CosentObjective,
    TripletObjective,
)
from trainer.recipe.yaml_text import parse

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
LEAST = {"name": "toy", "model": {"backbone": "b"}, "data": {"train": "t"}}


def leaves(value: object, place: tuple[str, ...] = ()) -> dict[str, object]:
    """Dotted keys and their values."""
    if not isinstance(value, dict):
        return {".".join(place): value}
    return {
        key: inner
        for name, section in value.items()
        for key, inner in leaves(section, (*place, name)).items()
    }


def test_recipes_exist() -> None:
    assert {path.stem for path in RECIPES} >= {
        "quickstart",
        "bi-encoder-lora",
        "bi-encoder-full",
        "scored-pairs",
        "triplet",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
class TestEach:
    def test_law_12_recipe_loads_dumps_and_loads_to_itself(
        self, path: Path, tmp_path: Path
    ) -> None:
        recipe = load_recipe(path)
        dumped = tmp_path / "recipe.yaml"
        dumped.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(dumped) == recipe
        assert dump_recipe(load_recipe(dumped)) == dump_recipe(recipe)

    def test_says_only_what_differs_from_the_defaults(self, path: Path) -> None:
        given = parse(path.read_text(encoding="utf-8"), path.name).value
        assert isinstance(given, dict)
        family = FAMILIES[str(given.get("kind", DEFAULT_KIND))]
        least = {**LEAST, "objective": {"kind": "pairwise", "random_negatives": 1}}
        defaults = family.model_validate(
            least if family is CrossEncoderRecipe else LEAST
        ).model_dump(mode="json")
        kept = {"kind", "name", "model.backbone", "data.train"}
        for key, value in leaves(given).items():
            default = leaves(defaults).get(key, "no such key")
            assert value != default or key in kept, f"{key}: {value} is the default"

    def test_explains_each_line(self, path: Path) -> None:
        _, _, body = path.read_text(encoding="utf-8").partition("\n\n")
        values = [line for line in body.splitlines() if re.match(r" *[a-z_]+: [^ ]", line)]
        assert len(values) > 4
        assert not [line for line in values if " # " not in line and not line.startswith("name:")]

    def test_recipe_has_a_header(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# yaml-language-server: $schema=../docs/recipe.schema.json\n")
        assert (path.parent / "../docs/recipe.schema.json").is_file()
        header = [line for line in text.splitlines() if line.startswith("#")]
        assert any(f"nearfar fit recipes/{path.name}" in line for line in header)
        assert any(line.startswith("# Hardware: ") for line in header)
        assert re.fullmatch(r"# [A-Z].{20,95}[.?]", header[1]), "what it is, in one line"
        assert any(re.match(r"# measured(: not yet| [0-9-]{10} on .+)$", line) for line in header)

    def test_recipe_has_the_name_of_its_file(self, path: Path) -> None:
        assert load_recipe(path).name == path.stem


def test_recipe_shows_its_purpose() -> None:
    recipes = {path.stem: load_recipe(path) for path in RECIPES}
    assert isinstance(recipes["scored-pairs"].objective, CosentObjective)
    assert isinstance(recipes["triplet"].objective, TripletObjective)
    assert recipes["triplet"].data.negatives_per_query == 1
    assert isinstance(recipes["bi-encoder-full"].model.tuning, FullTuning)
    assert isinstance(recipes["quickstart"].model.tuning, LoraTuning)
    assert isinstance(recipes["quickstart"].objective, BiEncoderContrastiveObjective)


def test_template_accepts_other_data() -> None:
    recipe = load_recipe(
        FOLDER / "bi-encoder-lora.yaml",
        ["data.train=my.jsonl", "model.backbone=BAAI/bge-base-en-v1.5"],
    )
    assert (recipe.data.train, recipe.model.backbone) == ("my.jsonl", "BAAI/bge-base-en-v1.5")
