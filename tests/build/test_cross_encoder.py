"""Recipes of kind cross_encoder: what they may not say, named; and the batches that they give."""

import json
import math
import threading

import pytest
import torch

from trainer.build import checks as recipe_checks
from trainer.build import students
from trainer.build.data import data_sets, pair_data
from trainer.build.data_facts.lengths import measure_lengths
from trainer.build.families.registry import build_model
from trainer.build.module import lightning_module
from trainer.data.rows import Row, Rows
from trainer.errors import BadData, BadModel
from trainer.evaluation import evaluate as evaluation
from trainer.evaluation.evaluate import retrieve
from trainer.models.dense import read_encoder
from trainer.recipe.load import load_recipe
from trainer.recipe.schema.families import CrossEncoderRecipe
from trainer.recipe.schema.training import CrossEncoderValidation
from trainer.retrieval.bm25 import bm25_run


def run_of(objective=None, data=None, model=None, **more):
    return CrossEncoderRecipe.model_validate(
        {
            "name": "toy",
            "model": {"backbone": "nowhere", **(model or {})},
            "data": {"train": "nothing.jsonl", **(data or {})},
            "objective": {"kind": "listwise", "random_negatives": 2}
            if objective is None
            else objective,
            **more,
        }
    )


def rows_of(labels=None, negatives=()):
    return Rows.of(
        [
            Row(f"query {number}", f"document {number}", negatives, labels, f"rows:{number}")
            for number in range(12)
        ]
    )


HARD = {"negatives_per_query": 2}


class TestRefused:
    @pytest.mark.parametrize(
        ("objective", "data", "rows", "message"),
        [
            (
                {"kind": "listwise", "graded": True},
                HARD,
                {"negatives": ("a", "b")},
                "a score of every candidate.* has 0 for 3",
            ),
            (
                {"kind": "listwise", "graded": True},
                HARD,
                {"negatives": ("a", "b"), "labels": (1.0,)},
                "has 1 for 3",
            ),
            ({"kind": "pointwise", "graded": True}, {}, {}, "has 0 for 1"),
            (
                {"kind": "margin_mse"},
                HARD,
                {"negatives": ("a", "b")},
                "the teacher's score of every candidate",
            ),
            (
                {"kind": "pointwise", "random_negatives": 2},
                {},
                {"labels": (0.3,)},
                "scored pairs.*graded=true",
            ),
        ],
    )
    def test_unfit_data_are_refused(self, objective, data, rows, message):
        with pytest.raises(BadData, match=message):
            recipe_checks.check_objective(run_of(objective=objective, data=data), rows_of(**rows))

    def test_right_recipes_are_accepted(self):
        recipe_checks.check_objective(run_of(), rows_of())
        recipe_checks.check_objective(
            run_of(objective={"kind": "lambda_loss"}, data=HARD), rows_of(negatives=("a", "b"))
        )
        recipe_checks.check_objective(
            run_of(objective={"kind": "pointwise", "graded": True}), rows_of(labels=(0.3,))
        )
        recipe_checks.check_objective(
            run_of(objective={"kind": "distillation"}, data=HARD),
            rows_of(negatives=("a", "b"), labels=(3.0, 1.0, 2.0)),
        )


@pytest.fixture
def overrides(toy_folder, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(
            json.dumps({"query": f"find disk {number}", "positive": f"disk number {number}"}) + "\n"
            for number in range(40)
        )
    )
    return [
        f"model.backbone={toy_folder('bert')}",
        "model.document_max_length_tokens=40",
        f"data.train={path}",
        "objective.random_negatives=3",
        "optimization.batch_size=8",
        "optimization.warmup_steps=0",
        "machine.accelerator=cpu",
        "machine.precision=fp32",
    ]


def test_batches_of_a_run_are_prepared_on_the_thread_that_tokenizes(overrides):
    run = load_recipe("recipes/cross-encoder.yaml", overrides)
    data, encoder = data_sets(run.data, run.seed), build_model(run)
    batching, threads = lightning_module(run, encoder, 2).micro_batching, []

    def prepare(batch):
        threads.append(threading.current_thread().name)
        return batching.prepare(batch)

    batch = next(iter(pair_data(run, data, encoder, 2, prepare=prepare).train_dataloader()))
    assert set(threads) == {"tokenizer"}
    queries, documents = batch.divisions
    assert queries.texts is batch.queries
    assert documents.texts is batch.documents
    assert documents.micro_batches
    assert all(part.numbers is not None for part in documents.micro_batches)


def test_batches_of_a_run_have_random_pairs(overrides):
    run = load_recipe("recipes/cross-encoder.yaml", overrides)
    data, encoder = data_sets(run.data, run.seed), build_model(run)
    batch = next(iter(pair_data(run, data, encoder, 2).train_dataloader()))
    assert batch.documents_per_query == 4
    assert batch.documents.second is not None
    assert batch.labels is None
    decoded = encoder.tokenizer.batch_decode(
        [ids.tolist() for ids in batch.documents.tokens.split(batch.documents.lengths.tolist())]
    )
    assert all(text.startswith("[CLS] ") and text.count("[SEP]") == 2 for text in decoded)
    assert len(batch.documents.identities.unique()) == 32
    module = lightning_module(run, encoder, 2)
    outcome = module.objective(batch, module.micro_batching.for_step(0), module.temperature())
    assert float(outcome.loss.detach()) == pytest.approx(math.log(4), abs=1.5)
    rates = {
        group["initial_lr"] for group in module.configure_optimizers()["optimizer"].param_groups
    }
    assert rates == {7e-4}
    other = lightning_module(
        load_recipe(
            "recipes/cross-encoder.yaml", [*overrides, "optimization.head_learning_rate=0.1"]
        ),
        encoder,
        2,
    )
    heads = [
        group["params"]
        for group in other.configure_optimizers()["optimizer"].param_groups
        if group["initial_lr"] == 0.1
    ]
    assert sum(len(parameters) for parameters in heads) == 4


def test_non_finite_scores_are_named_in_validation(overrides):
    run = load_recipe("recipes/cross-encoder.yaml", overrides)
    data, encoder = data_sets(run.data, run.seed), build_model(run)
    module = lightning_module(run, encoder, 2)
    assert set(module.validate(data.validation)) >= {"ndcg@10"}
    with torch.no_grad():
        encoder.backbone.get_base_model().classifier.bias.fill_(float("inf"))
    with pytest.raises(BadModel, match="not finite"):
        module.validate(data.validation)


@pytest.mark.parametrize("first_stage", [None, "bert"])
def test_validation_ranks_the_results_of_the_first_stage(
    first_stage, overrides, toy_folder, monkeypatch
):
    name = None if first_stage is None else str(toy_folder(first_stage))
    run = load_recipe(
        "recipes/cross-encoder.yaml",
        [
            *overrides,
            "validation.rerank_depth=3",
            *([f"validation.first_stage={name}"] if name else []),
        ],
    )
    data, encoder = data_sets(run.data, run.seed), build_model(run)
    seen = []
    plain = evaluation.rerank_run

    def rerank_run(encoder, found, *others):
        seen.append(found)
        return plain(encoder, found, *others)

    monkeypatch.setattr(evaluation, "rerank_run", rerank_run)
    module = lightning_module(run, encoder, 2)
    first = module.validate(data.validation)
    assert module.validate(data.validation) == first
    assert seen[0] is seen[1], "found once"
    wanted = (
        bm25_run(data.validation, 3)
        if name is None
        else retrieve(read_encoder(name), data.validation, 3)
    )
    assert {query: list(hits) for query, hits in seen[0].items()} == {
        query: list(hits) for query, hits in wanted.items()
    }
    assert max(map(len, seen[0].values())) == 3
    shallow = lightning_module(
        run.model_copy(update={"validation": CrossEncoderValidation(rerank_depth=1)}), encoder, 2
    )
    shallow.validate(data.validation)
    assert max(map(len, seen[-1].values())) == 1


def test_missing_first_stage_is_named_before_training(overrides):
    run = load_recipe("recipes/cross-encoder.yaml", [*overrides, "validation.first_stage=/nowhere"])
    with pytest.raises(BadModel, match="/nowhere"):
        students.locate_other_models(run)


def test_lengths_checked_before_a_run_are_those_of_pairs(overrides):
    run = load_recipe(
        "recipes/cross-encoder.yaml", [*overrides, "model.document_max_length_tokens=12"]
    )
    data, encoder = data_sets(run.data, run.seed), build_model(run)
    queries, pairs = measure_lengths(encoder, data.train, run.negatives_per_query)
    assert pairs.texts == 4 * queries.texts
    assert pairs.limit_tokens == 12
    long = [len(encoder.tokenizer(row.query, row.positive)["input_ids"]) for row in data.train]
    assert pairs.cut_texts == 4 * sum(length > 12 for length in long)
    assert pairs.cut_texts > 0
