"""The keys of a recipe that differ from their defaults."""

from trainer.recipe.changed_keys import changed_keys
from trainer.recipe.load import recipe_from_values

REQUIRED = {"name": "a", "model": {"backbone": "b"}, "data": {"train": "c.jsonl"}}


def test_recipe_of_defaults_has_its_required_keys_alone():
    assert changed_keys(recipe_from_values(REQUIRED)) == {
        "name": "a",
        "model.backbone": "b",
        "data.train": "c.jsonl",
    }


def test_changed_keys_have_full_names():
    changes = ["optimization.epochs=7", "model.tuning.rank=8", "data.columns={query: question}"]
    keys = changed_keys(recipe_from_values(REQUIRED, changes))
    assert keys["optimization.epochs"] == 7
    assert keys["model.tuning.rank"] == 8
    assert keys["data.columns"] == {"query": "question"}
    assert len(keys) == 6


def test_section_of_another_kind_is_named_with_its_own_changes():
    keys = changed_keys(recipe_from_values(REQUIRED, ["model.tuning.kind=full"]))
    assert keys["model.tuning.kind"] == "full"
    assert len(keys) == 4


def test_other_family_and_optional_section_are_named():
    keys = changed_keys(recipe_from_values(REQUIRED | {"kind": "colbert", "matryoshka": {
        "layers": [2, 1]}}))  # fmt: skip
    assert keys["kind"] == "colbert"
    assert keys["matryoshka.layers"] == [2, 1]


def test_lists_of_sections_are_plain_values():
    sources = "data.train=[{source: a.jsonl, weight: 2}]"
    assert changed_keys(recipe_from_values(REQUIRED, [sources]))["data.train"] == [
        {"source": "a.jsonl", "columns": None, "weight": 2.0}
    ]
