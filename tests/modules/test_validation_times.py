"""When a run validates: a function of recipe and data, more often at the start."""

import json

import pytest
import pytorch_lightning as lightning

import nearfar
from trainer.build.module import validation_times
from trainer.checkpoints.best import KeepBest
from trainer.data.retrieval_set import RetrievalSet
from trainer.modules.validation_times import ValidationTimes
from trainer.recipe.load import recipe_from_values


def recipe(**sections):
    values = {"name": "a", "model": {"backbone": "b"}, "data": {"train": "c"}}
    return recipe_from_values(values | sections)


def held_out(documents):
    """A set of ten queries and this many documents."""
    texts = tuple(f"text {number}" for number in range(documents))
    queries = tuple(f"q{number}" for number in range(10))
    return RetrievalSet("a", queries, queries, texts, texts, {"q0": {texts[0]: 1}})


# Training on 6,400 pairs costs as much as encoding 19,200 documents; a twentieth of it is 960.
@pytest.mark.parametrize(
    ("documents", "early"),
    [(10, 3), (320, 3), (321, 2), (480, 2), (481, 1), (960, 1), (961, 0), (50_000, 0)],
)
def test_early_validations_cost_a_twentieth_of_the_training_at_most(documents, early):
    times = validation_times(recipe(), 6400, 100, held_out(documents))
    assert times == ValidationTimes(100, 100, early)


def test_longer_training_affords_more_and_later_passes_have_one():
    times = validation_times(recipe(optimization={"epochs": 3}), 6400, 300, held_out(961))
    steps = [step for step in range(1, 301) if times.is_due(step)]
    assert steps == [34, 67, 100, 200, 300]
    assert times.count == 5
    assert times.text == "every 100 steps, and after 34, 67"


def test_recipe_decides_if_it_says_so():
    times = validation_times(recipe(validation={"every_steps": 40}), 6400, 100, held_out(10))
    assert [step for step in range(1, 101) if times.is_due(step)] == [40, 80, 100]
    assert (times.count, times.text) == (3, "every 40 steps")


def test_pass_of_two_steps_is_validated_after_each():
    times = ValidationTimes(2, 5, 3)
    assert [step for step in range(1, 6) if times.is_due(step)] == [1, 2, 4, 5]
    assert times.count == 4


def test_short_run_is_divided_as_a_pass_is():
    assert validation_times(recipe(), 64_000, 20, held_out(10)) == ValidationTimes(20, 20, 3)


@pytest.mark.parametrize("documents", [10, 400])
def test_added_passes_add_no_validations(documents):
    few = recipe(optimization={"epochs": 4})
    run = recipe(optimization={"epochs": 4, "min_steps": 50})
    times = validation_times(run, 6400, 400, held_out(documents))
    assert times == validation_times(few, 6400, 400, held_out(documents))
    times = validation_times(run, 640, 50, held_out(documents))
    assert times.count == validation_times(few, 640, 40, held_out(documents)).count
    assert times.every_steps == 13


def test_cross_encoder_pays_for_the_pairs_that_it_reranks():
    objective = {"kind": "listwise", "random_negatives": 3}
    ranker = recipe(kind="cross_encoder", objective=objective)
    assert validation_times(ranker, 6400, 100, held_out(90_000)) == ValidationTimes(100, 100, 3)
    deep = recipe(kind="cross_encoder", objective=objective, validation={"rerank_depth": 384})
    assert validation_times(deep, 6400, 100, held_out(10)) == ValidationTimes(100, 100, 1)


def test_validations_before_the_end_of_the_first_pass_do_not_use_up_patience(tmp_path):
    best = KeepBest(tmp_path, patience=2, patience_start=8)
    best.score = 1.0
    for step, is_over in ((3, False), (6, False), (8, False), (16, True)):
        best.record(0.5, step, lightning.LightningModule())
        assert best.is_patience_over == is_over


def test_run_validates_at_these_steps(tmp_path, toy_folder):
    words = ("disk", "storage", "account", "query", "database", "machine", "region", "western")
    rows = [
        json.dumps({"query": f"the {first} {second}", "positive": f"a {first} {second}"}) + "\n"
        for first in words
        for second in words
    ]
    (tmp_path / "train.jsonl").write_text("".join(rows[4:]))
    (tmp_path / "dev.jsonl").write_text("".join(rows[:4]))
    data = {"train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "dev.jsonl")}
    run = nearfar.fit(
        {
            "name": "toy",
            "output": str(tmp_path),
            "model": {"backbone": str(toy_folder("bert"))},
            "data": data,
            "optimization": {"batch_size": 12, "epochs": 2},
            "machine": {"accelerator": "cpu", "precision": "fp32"},
        }
    )
    log = map(json.loads, (run.folder / "log.jsonl").read_text().splitlines())
    steps = [record["step"] + 1 for record in log if "validation/ndcg@10" in record]
    assert steps == [1, 2, 3, 4, 5, 10], "the first is before training"
