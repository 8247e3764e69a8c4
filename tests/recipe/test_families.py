"""A recipe per family: what belongs to another kind is refused by the schema, and what contradicts
itself by the section that has it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import BadRecipe
from trainer.recipe.load import load_recipe
from trainer.recipe.schema.families import (
    FAMILIES,
    BiEncoderRecipe,
    ColBERTRecipe,
    CrossEncoderRecipe,
    Recipe,
)

STATIC = {"static": {}, "tuning": {"kind": "full"}}
TAUGHT = {"kind": "distribution", "models": ["t"]}
RANKED = {"kind": "listwise", "random_negatives": 2}
HARD = {"negatives_per_query": 2}


@pytest.fixture
def load(tmp_path: Path):
    def load(kind: str = "bi_encoder", model: Mapping[str, Any] | None = None, **more: Any):
        values = {
            "kind": kind,
            "name": "toy",
            "model": {"backbone": "some/model", **(model or {})},
            "data": {"train": "pairs.jsonl", **more.pop("data", {})},
            **({"objective": RANKED} if kind == "cross_encoder" else {}),
            **more,
        }
        path = tmp_path / "toy.yaml"
        path.write_text(json.dumps(values, indent=1), encoding="utf-8")
        return load_recipe(path)

    return load


def refusal(load, **values: Any) -> str:
    with pytest.raises(BadRecipe) as raised:
        load(**values)
    assert raised.value.exit_code == 2
    return str(raised.value)


def test_kind_chooses_the_class(load) -> None:
    assert isinstance(load(), BiEncoderRecipe)
    assert isinstance(load("colbert"), ColBERTRecipe)
    assert isinstance(load("cross_encoder"), CrossEncoderRecipe)


def test_recipe_without_kind_is_a_bi_encoder(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text("name: toy\nmodel: {backbone: b}\ndata: {train: t}\n")
    assert isinstance(load_recipe(path), BiEncoderRecipe)
    assert isinstance(load_recipe(path, ["kind=colbert"]), ColBERTRecipe)


def kinds_in(message: str) -> set[str]:
    """The kinds that a message or a row of FOREIGN names; a further family may own a key, too."""
    named = re.search(r"belongs to kind: (.+?), but this recipe", message)
    return set(re.split(", | or ", named[1] if named else message))


def test_unknown_kind_names_the_nearest(load) -> None:
    assert (
        f'toy.yaml:2: kind: "bi_encodr" is not one of {", ".join(FAMILIES)}; did you'
        " mean bi_encoder?" in refusal(load, kind="bi_encodr")
    )
    assert "kind: null is not one of" in refusal(load, kind=None)


def test_cross_encoder_has_no_default_objective(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text("name: toy\nkind: cross_encoder\nmodel: {backbone: b}\ndata: {train: t}\n")
    with pytest.raises(BadRecipe, match="objective is missing.* pointwise, pairwise, listwise"):
        load_recipe(path)


# The key, whose it is, and what the recipe holds there.
FOREIGN = [
    ("model.late_interaction", "colbert", "bi_encoder", {"model": {"late_interaction": {}}}),
    ("model.pooling", "bi_encoder", "colbert", {"model": {"pooling": "cls"}}),
    ("model.normalize", "bi_encoder", "colbert", {"model": {"normalize": False}}),
    ("model.static", "bi_encoder", "colbert", {"model": {"static": {}}}),
    (
        "model.projection_start",
        "bi_encoder",
        "colbert",
        {"model": {"projection_start": "pca", "projection_dimensions": 8}},
    ),
    ("model.pooling", "bi_encoder", "cross_encoder", {"model": {"pooling": "cls"}}),
    ("model.normalize", "bi_encoder", "cross_encoder", {"model": {"normalize": False}}),
    ("model.static", "bi_encoder", "cross_encoder", {"model": {"static": {}}}),
    ("model.late_interaction", "colbert", "cross_encoder", {"model": {"late_interaction": {}}}),
    ("model.layers", "bi_encoder or colbert", "cross_encoder", {"model": {"layers": 1}}),
    (
        "model.projection_dimensions",
        "bi_encoder or colbert",
        "cross_encoder",
        {"model": {"projection_dimensions": 8}},
    ),
    ("teacher", "bi_encoder or colbert", "cross_encoder", {"teacher": TAUGHT}),
    ("matryoshka", "bi_encoder or colbert", "cross_encoder", {"matryoshka": {"layers": [2]}}),
    ("refresh", "bi_encoder or colbert", "cross_encoder", {"refresh": {}}),
    ("matryoshka.dimensions", "bi_encoder", "colbert", {"matryoshka": {"dimensions": [8]}}),
    ("objective.xtr_top_k", "colbert", "bi_encoder", {"objective": {"xtr_top_k": 4}}),
    ("objective.guide", "bi_encoder", "colbert", {"objective": {"guide": "m"}}),
    ("objective.guide_margin", "bi_encoder", "colbert", {"objective": {"guide_margin": 0.1}}),
    ("objective.graded", "cross_encoder", "colbert", {"objective": {"graded": True}}),
    ("validation.rerank_depth", "cross_encoder", "bi_encoder", {"validation": {"rerank_depth": 5}}),
    ("validation.first_stage", "cross_encoder", "colbert", {"validation": {"first_stage": "m"}}),
]


@pytest.mark.parametrize(
    ("key", "owners", "kind", "values"),
    FOREIGN,
    ids=[f"{each[0]}-in-{each[2]}" for each in FOREIGN],
)
def test_key_of_another_kind_is_refused(load, key, owners, kind, values) -> None:
    message = refusal(load, kind=kind, **values)
    line = next(line for line in message.splitlines() if f": {key} belongs" in line)
    assert kinds_in(line) >= kinds_in(owners)
    assert line.endswith(f", but this recipe has kind {kind}; remove it, or change the kind")
    assert kind not in kinds_in(line)
    assert "toy.yaml:" in line


@pytest.mark.parametrize(
    ("variant", "owners", "kind"),
    [
        ("objective.kind: contrastive", "bi_encoder or colbert", "cross_encoder"),
        ("objective.kind: cosent", "bi_encoder or colbert", "cross_encoder"),
        ("objective.kind: triplet", "bi_encoder or colbert", "cross_encoder"),
        ("objective.kind: listwise", "cross_encoder", "bi_encoder"),
        ("objective.kind: pointwise", "cross_encoder", "colbert"),
        ("teacher.kind: vectors", "bi_encoder", "colbert"),
    ],
)
def test_variant_of_another_kind_is_refused(load, variant, owners, kind) -> None:
    key, _, name = variant.partition(": ")
    section = key.partition(".")[0]
    message = refusal(load, kind=kind, **{section: {"kind": name, "models": ["t"]}})
    line = next(line for line in message.splitlines() if f": {variant} belongs" in line)
    assert kinds_in(line) >= kinds_in(owners)
    assert f", but this recipe has kind {kind}; give one of " in line
    assert line.endswith(", or change the recipe's kind")


CONTRADICTIONS = [
    # within the section `model`
    ({"model": {"static": {}}}, "set model.tuning.kind to full"),
    ({"model": {**STATIC, "pooling": "cls"}}, "model.pooling belongs to a transformer"),
    ({"model": {**STATIC, "layers": 2}}, "model.layers belongs to a transformer"),
    ({"model": {**STATIC, "projection_dimensions": 2}}, "model.projection_dimensions belongs"),
    ({"model": {**STATIC, "query_max_length_tokens": 2}}, "query_max_length_tokens belongs"),
    ({"model": {**STATIC, "document_max_length_tokens": 2}}, "document_max_length_tokens belongs"),
    ({"model": {**STATIC, "activation_checkpointing": True}}, "no layers to compute again"),
    ({"model": {"projection_start": "pca"}}, "set its width with model.projection_dimensions"),
    # within the sections `objective`, `teacher` and `matryoshka`
    ({"objective": {"hardness": {}, "symmetric": True}}, "set objective.symmetric to false"),
    (
        {
            "kind": "cross_encoder",
            "objective": {"kind": "pairwise", "random_negatives": 2, "graded": True},
        },
        "random negatives have none",
    ),
    ({"teacher": {"kind": "vectors", "models": ["t", "u"]}}, "learns the vectors of one teacher"),
    ({"matryoshka": {}}, "neither dimensions nor layers"),
    ({"matryoshka": {"dimensions": [8, 4], "weights": [1.0]}}, "has 1 weights for 2 dimensions"),
    ({"matryoshka": {"dimensions": [8, 8]}}, "has 8 twice"),
    ({"matryoshka": {"layers": [2, 2]}}, "has 2 twice"),
    ({"kind": "colbert", "matryoshka": {"layers": [2, 2]}}, "has 2 twice"),
    ({"matryoshka": {"layers": [2, 1], "layer_weights": [1.0]}}, "has 1 weights for 2 layers"),
    ({"matryoshka": {"layers": [2, 1], "weights": [1.0]}}, "has 1 weights for 0 dimensions"),
    # between sections
    (
        {"teacher": {"kind": "vectors", "models": ["t"]}, "matryoshka": {"dimensions": [8]}},
        "compares whole vectors",
    ),
    ({"model": STATIC, "matryoshka": {"layers": [2, 1]}}, "model.static has none"),
    ({"teacher": {"kind": "margins", "models": ["t"]}}, "negatives_per_query to 1 or more"),
    ({"teacher": {**TAUGHT, "candidates": "own"}}, "negatives_per_query to 1 or more"),
    (
        {
            "teacher": {**TAUGHT, "objective_weight": 0},
            "objective": {"learn_temperature": True},
        },
        "nothing trains the objective's temperature",
    ),
    ({"objective": {"kind": "cosent"}, "data": HARD}, "set data.negatives_per_query to 0"),
    ({"objective": {"kind": "triplet"}}, "or mine them with refresh"),
    ({"objective": {"kind": "margin_mse"}}, "compares a query's own candidates"),
    ({"objective": {"kind": "distillation"}}, "compares a query's own candidates"),
    (
        {"objective": {"kind": "margin_mse"}, "data": HARD, "refresh": {}},
        "objective.kind=margin_mse learns from scores in the data",
    ),
    ({"objective": {"kind": "cosent"}, "refresh": {}}, "cannot be combined with refresh"),
    ({"objective": {"teacher_margin": 0.1}, "refresh": {}}, "use objective.guide"),
    (
        {"objective": {"kind": "triplet"}, "refresh": {"first_step": 3}},
        "before refresh.first_step=3",
    ),
    (
        {"teacher": {**TAUGHT, "candidates": "own"}, "refresh": {"first_step": 3}},
        "before refresh.first_step=3",
    ),
    ({"kind": "cross_encoder", "data": HARD}, "for data without negatives"),
    (
        {"kind": "cross_encoder", "objective": {"kind": "listwise", "random_negatives": 64}},
        "at most 63",
    ),
    ({"kind": "cross_encoder", "objective": {"kind": "listwise"}}, "only the positive"),
    (
        {"kind": "cross_encoder", "objective": {"kind": "pairwise", "graded": True}},
        "only the positive",
    ),
    ({"kind": "cross_encoder", "objective": {"kind": "distillation"}}, "only the positive"),
]


@pytest.mark.parametrize(("values", "advice"), CONTRADICTIONS)
def test_contradiction_is_refused_with_its_line(load, values, advice) -> None:
    message = refusal(load, **values)
    assert advice in message
    assert "toy.yaml:" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "values",
    [
        {
            "model": {"static": {}, "tuning": {"kind": "full"}},
            "teacher": TAUGHT,
            "matryoshka": {"dimensions": [256, 64]},
        },
        {
            "model": {"layers": 3, "projection_dimensions": 8, "projection_start": "pca"},
            "teacher": {"kind": "vectors", "models": ["t"]},
        },
        {"kind": "colbert", "matryoshka": {"layers": [2, 1]}},
        {"teacher": {"kind": "vectors", "models": ["t"]}, "matryoshka": {"layers": [2, 1]}},
        {"kind": "colbert", "data": HARD, "teacher": {"kind": "margins", "models": ["t"]}},
        {"objective": {"kind": "triplet"}, "refresh": {}},
        {"teacher": {**TAUGHT, "candidates": "own"}, "refresh": {}},
        {"data": HARD, "objective": {"kind": "triplet"}, "refresh": {"first_step": 3}},
        {"kind": "cross_encoder", "data": HARD, "objective": {"kind": "lambda_loss"}},
        {"kind": "cross_encoder", "objective": {"kind": "pointwise", "graded": True}},
        {"kind": "cross_encoder", "data": HARD, "objective": {"kind": "distillation"}},
    ],
)
def test_consistent_recipes_are_accepted(load, values) -> None:
    assert load(**values).name == "toy"


def test_negatives_per_query_counts_all_negatives_of_a_query(load) -> None:
    assert load().negatives_per_query == 0
    assert load(data=HARD, refresh={"negatives": 3}).negatives_per_query == 5
    assert load("cross_encoder").negatives_per_query == 2
    ranked = load("cross_encoder", data={"negatives_per_query": 4}, objective={"kind": "pairwise"})
    assert (ranked.negatives_per_query, ranked.random_negatives) == (4, 0)


def test_every_family_is_of_the_union() -> None:
    union = Recipe.__origin__.__args__  # type: ignore[attr-defined]
    assert set(union) == {*FAMILIES.values()}
