"""Every key of a recipe: how it is found, what is said about it, and the schema for editors.

Law 13 (a mistyped key names the right one) is in tests/laws/test_law_13_mistyped_keys.py.
"""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from trainer.errors import BadRecipe
from trainer.recipe.explain import explain_keys, json_schema
from trainer.recipe.keys import Key, all_keys, nearest_keys
from trainer.recipe.load import load_recipe
from trainer.recipe.schema.families import FAMILIES
from trainer.recipe.schema.section import Section

KEYS = list(all_keys())
LISTS = ("trackers", "data.train")
"""Keys that hold, or may hold, a list of sections."""
LEAST: dict[str, object] = {
    "name": "toy",
    "model": {"backbone": "some/model"},
    "data": {"train": "pairs.jsonl"},
}


@pytest.mark.parametrize("key", sorted({key.name for key in KEYS}))
def test_every_key_is_found_from_its_last_word(key: str) -> None:
    if key.count(".") and not key.endswith(".kind"):
        name = key.rsplit(".", 1)[-1]
        same_name = {other.name for other in KEYS if other.path[-1] == name}
        assert same_name & set(nearest_keys(name))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.name}-{key.variant}")
def test_every_key_says_what_it_means(key: Key) -> None:
    variant = key.path[-1] == "kind" and len(key.path) > 1
    sections_have_docs = key.sections and all(section.__doc__ for section in key.sections)
    assert variant or sections_have_docs or all(each.description for each in key.fields.values())
    assert f"{key.path[-1]}" in explain_keys(key.name)


def test_full_listing_has_every_key_once_per_variant() -> None:
    lines = explain_keys().splitlines()
    listed = [
        line.split(" = ")[0] for line in lines if " = " in line and not line.startswith(("#", " "))
    ]
    expected = [
        key.name
        for key in KEYS
        if not (key.sections and key.name not in LISTS)
        and not (key.path[-1] == "kind" and len(key.path) > 1)
    ]
    kinds = ["model.tuning.kind", *["objective.kind"] * 3]
    may_be_absent = [
        "model.static",
        "model.query_table",
        "model.image_tower",
        "objective.hardness",
        "teacher",
        "teacher",
        "matryoshka",
        "refresh",
    ]
    two_ways = ["model.projection_dimensions", "matryoshka.layers"]
    expected += [*kinds, *may_be_absent, *two_ways]
    assert set(listed) == set(expected)
    more, least = Counter(listed) - Counter(expected), Counter(expected)
    assert Counter(listed) >= least
    further_families = len(FAMILIES) - 3  # each may give a key a meaning of its own
    assert all(times <= further_families for times in more.values())
    assert max(map(len, lines)) < 170 + 20 * further_families
    assert "\n\n\n" not in "\n".join(lines)


def test_key_is_explained() -> None:
    assert explain_keys("optimization.learning_rate").splitlines() == [
        f"{'optimization.learning_rate = 0.001':<44} a number greater than 0",
        "    peak learning rate of the backbone's weights or its LoRA adapters",
    ]
    assert "objective.kind = contrastive" in explain_keys("objective.kind")
    assert "objective.kind = contrastive" in explain_keys("objective")
    assert explain_keys("objective.temperature").count("objective.kind: ") >= 3


def test_key_of_some_families_names_them() -> None:
    assert "(only with kind: bi_encoder)" in explain_keys("model.pooling")
    assert "(only with kind: cross_encoder)" in explain_keys("validation.first_stage")
    assert "(only with kind: colbert, objective.kind: contrastive)" in explain_keys(
        "objective.xtr_top_k"
    )
    assert "(only with" not in explain_keys("model.backbone")
    assert explain_keys("model.projection_dimensions").count("(only with kind: ") == 3


def test_default_can_be_written_as_it_is_explained(tmp_path: Path) -> None:
    """`key = default` is what one would write: each is taken as an override."""
    path = tmp_path / "toy.yaml"
    path.write_text(json.dumps(LEAST), encoding="utf-8")
    before = load_recipe(path)
    of_bi_encoders = {key.name for key in KEYS if "bi_encoder" in key.fields}
    defaults = re.findall(r"^([a-z_0-9.]+) = (\S+) ", explain_keys(), flags=re.MULTILINE)
    of_objectives = (
        "objective.margin",
        "objective.bias",
        "objective.teacher_temperature",
        "objective.random_negatives",
        "objective.graded",
    )
    of_others = (
        "trackers.",
        "data.train.",
        *(
            f"{part}."
            for part in (
                "model.late_interaction",
                "model.static",
                "objective.hardness",
                "teacher",
                "matryoshka",
                "refresh",
            )
        ),
        *of_objectives,
    )
    settings = [
        f"{key}={value}"
        for key, value in dict(reversed(defaults)).items()  # the first is of bi-encoders
        if value != "(required)" and key in of_bi_encoders and not key.startswith(of_others)
    ]
    assert len(settings) > 40
    assert load_recipe(path, settings) == before


def test_unknown_key_is_refused() -> None:
    with pytest.raises(
        BadRecipe, match=r"no key learning_rate; did you mean optimization\.learning_rate"
    ):
        explain_keys("learning_rate")
    with pytest.raises(BadRecipe, match="lists every key"):
        explain_keys("zzzzzzz")


def test_schema_for_editors_is_current(repository: Path) -> None:
    written = json.loads((repository / "docs/recipe.schema.json").read_text(encoding="utf-8"))
    assert written == json_schema(), "run `nearfar recipe schema > docs/recipe.schema.json`"
    optimization = written["$defs"]["OptimizationSection"]
    assert optimization["properties"]["learning_rate"]["description"]
    assert optimization["additionalProperties"] is False


def test_schema_for_editors_takes_a_section_without_kind_for_one_variant() -> None:
    """In JSON Schema, `oneOf` refuses what fits two variants."""
    definitions = json_schema()["$defs"]
    kinds = {
        name: definition["properties"]["kind"]["const"]
        for name, definition in definitions.items()
        if "const" in definition.get("properties", {}).get("kind", {})
    }
    without = {name for name in kinds if "kind" not in definitions[name].get("required", [])}
    assert {kinds[name] for name in without} == {"bi_encoder", "contrastive", "lora"}


def test_every_section_is_strict_and_frozen() -> None:
    sections = {section for key in KEYS for section in key.sections} | {*FAMILIES.values()}
    assert len(sections) >= 30
    for section in sections:
        assert issubclass(section, Section)
        assert section.model_config["extra"] == "forbid"
        assert section.model_config["frozen"]
        assert section.model_config["strict"]
