"""Names of other libraries are answered with the recipe's own."""

import re

import pytest

from trainer.errors import BadRecipe
from trainer.recipe.explain import explain_keys
from trainer.recipe.keys import all_keys
from trainer.recipe.load import recipe_from_values
from trainer.recipe.other_names import ADVICE, VALUES
from trainer.recipe.type_text import choices

LEAST = {"name": "toy", "model": {"backbone": "some/model"}, "data": {"train": "pairs.jsonl"}}
_WRITTEN_KEY = re.compile(r"(?:write|or|and|by|of|as) ([a-z]+\.[a-z_0-9.]*[a-z_])")


def answer(*overrides: str, **values: object) -> str:
    with pytest.raises(BadRecipe) as raised:
        recipe_from_values(LEAST | values, overrides)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("lr", "write optimization.learning_rate"),
        ("bs", "write optimization.batch_size"),
        ("r", "write model.tuning.rank"),
        ("num-train-epochs", "write optimization.epochs"),
        ("per_device_train_batch_size", "write optimization.batch_size, the queries per step"),
        ("gradient_accumulation_steps", "it has no effect here: optimization.batch_size counts"),
        ("lora_alpha", "write model.tuning.alpha"),
        ("bf16", "write machine.precision"),
    ],
)
def test_key_of_another_library_is_answered_wherever_it_is_written(name: str, advice: str) -> None:
    wrong = f"{name} is not a key; {advice}"
    assert wrong in answer(**{name: 1})
    assert wrong in answer(f"{name}=1")
    assert wrong in answer(f"optimization.{name}=1")
    assert f"; {advice}" in answer(name)
    with pytest.raises(BadRecipe, match=f"no key {name}; {advice}"):
        explain_keys(name)


@pytest.mark.parametrize("name", sorted(ADVICE))
def test_advice_names_keys_that_exist_under_another_name(name: str) -> None:
    keys = {key.name for key in all_keys()}
    assert name not in {key.path[-1].replace("_", "") for key in all_keys()}
    assert set(_WRITTEN_KEY.findall(ADVICE[name])) <= keys


def test_keys_are_found_in_the_advice() -> None:
    assert sum(bool(_WRITTEN_KEY.search(text)) for text in ADVICE.values()) > 60


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("objective.kind=mnrl", "contrastive"),
        ("objective.kind=CachedMultipleNegativesRankingLoss", "contrastive"),
        ("objective.kind=MarginMSELoss", "margin_mse"),
        ("machine.accelerator=gpu", "cuda"),
        ("machine.precision=bfloat16", "bf16"),
        ("model.pooling=avg", "mean"),
        ("model.tuning.kind=qlora", "lora"),
        ("kind=reranker", "cross_encoder"),
    ],
)
def test_value_of_another_library_is_answered_with_ours(override: str, value: str) -> None:
    assert answer(override).endswith(f"; did you mean {value}?")


def test_value_of_another_family_is_not_suggested() -> None:
    assert "did you mean" not in answer("kind=cross_encoder", "objective.kind=mnrl")


def test_suggested_values_exist() -> None:
    words = {
        word
        for key in all_keys()
        for field in key.fields.values()
        for word in choices(field.annotation)
    }
    kinds = {
        section.model_fields["kind"].default
        for key in all_keys()
        for section in key.sections
        if "kind" in section.model_fields
    }
    assert set(VALUES.values()) <= words | kinds
