"""The advice of a report follows from its figures."""

from pathlib import Path

import numpy as np
import pytest

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.results import Evaluation, SystemResult, compare
from trainer.recipe.load import recipe_from_values
from trainer.report.data_section import DataFacts, RoleLengths, SharedTexts
from trainer.report.next_steps import next_steps
from trainer.report.read import Run

RECIPE = recipe_from_values(
    {
        "name": "a",
        "model": {"backbone": "b"},
        "data": {"train": "c.jsonl"},
        "optimization": {"epochs": 3, "learning_rate": 0.001},
    }
)


def run(validation=(), losses=(), recipe=RECIPE, **parts) -> Run:
    """A finished run with these scores, validated every 10 steps, and losses of each step."""
    log = [{"step": 10 * n, "validation/ndcg@10": score} for n, score in enumerate(validation)]
    log += [{"step": n, "train/loss": loss} for n, loss in enumerate(losses)]
    values = {"evaluation": None, "data": None, "selection": None, "validation_limitation": ""}
    status = {"status": "done"}
    return Run(Path("a"), "", recipe, {}, status, False, log, **values | parts)


def evaluation(**scores: list[float]) -> Evaluation:
    """The comparison of systems by their nDCG@10 of each query."""
    queries = tuple(f"q{number}" for number in range(len(next(iter(scores.values())))))
    judged = RetrievalSet(
        "a", queries, queries, ("d",), ("d",), {query: {"d": 1} for query in queries}
    )
    systems = [
        SystemResult(name.replace("_", "-"), queries, {"ndcg@10": np.array(values)}, {})
        for name, values in scores.items()
    ]
    return compare(judged, "test", systems)


def facts(cut_texts=0, leaks=(), counts=(500, 500, 400, 0)) -> DataFacts:
    """Data of 500 pairs, with the given number of 1000 documents cut."""
    lengths = RoleLengths("document", 1000, cut_texts, 256, 80.0, 16, (1000 - cut_texts,))
    return DataFacts([("training", "", list(counts))], list(leaks), [lengths], [])


def test_run_without_a_sign_has_no_advice():
    good = evaluation(BM25=[0.1] * 40, base=[0.5] * 40, fine_tuned=[0.9] * 40)
    steps = next_steps(run([0.5, 0.7, 0.71, 0.71], [2.0] * 40, evaluation=good, data=facts()))
    assert steps == []


def test_rising_curve_suggests_more_steps():
    (step,) = next_steps(run([0.5, 0.6, 0.65]))
    assert "`optimization.epochs=6`" in step.advice
    assert "from 0.600 at step 11 to 0.650 at step 21" in step.reason
    limited = recipe_from_values(
        {"name": "a", "model": {"backbone": "b"}, "data": {"train": "c.jsonl"}},
        ["optimization.max_steps=21"],
    )
    (step,) = next_steps(run([0.5, 0.6, 0.65], recipe=limited))
    assert "`optimization.max_steps=42`" in step.advice
    extended = recipe_from_values(
        {"name": "a", "model": {"backbone": "b"}, "data": {"train": "c.jsonl"}},
        ["optimization.min_steps=21"],
    )
    (step,) = next_steps(run([0.5, 0.6, 0.65], recipe=extended))
    assert "`optimization.min_steps=42`" in step.advice
    (step,) = next_steps(run([0.5, 0.6, 0.65], recipe=None))
    assert step.advice == "Train longer"


def test_early_best_score_suggests_a_lower_rate():
    (step,) = next_steps(run([0.5, 0.7, 0.68, 0.66]))
    assert "`optimization.learning_rate`, now 0.001" in step.advice
    assert "0.700 at step 11, and fell to 0.660 at step 31" in step.reason


@pytest.mark.parametrize("curve", [[0.5, 0.6], [0.6, 0.601, 0.602], [0.5, 0.6, 0.7, 0.699]])
def test_flat_or_short_curve_gives_no_advice(curve):
    assert next_steps(run(curve)) == []


def test_many_cut_texts_suggest_passages():
    assert next_steps(run(data=facts(cut_texts=100))) == []
    (step,) = next_steps(run(data=facts(cut_texts=340)))
    assert "`model.document_max_length_tokens`" in step.advice
    assert "34% of the documents are longer than 256 tokens" in step.reason


def test_unproven_gain_suggests_more_data_and_names_what_the_test_sees():
    near = evaluation(base=[0.5, 0.6] * 20, fine_tuned=[0.6, 0.5] * 19 + [0.7, 0.5])
    (step,) = next_steps(run(evaluation=near, data=facts()))
    assert "training pairs (now 500)" in step.advice
    assert "on 40 test queries, which would show a difference of 0.0" in step.reason


def test_bm25_that_is_often_better_suggests_hybrid_search():
    mixed = evaluation(BM25=[1.0] * 6 + [0.0] * 34, fine_tuned=[0.5] * 6 + [0.9] * 34)
    (step,) = next_steps(run(evaluation=mixed))
    assert "`nearfar evaluate a hybrid:a/model+bm25`" in step.advice
    assert "for 6 of 40 test queries (15%); its mean is 0.150, the model's 0.840" in step.reason


def test_small_loss_from_the_beginning_suggests_hard_negatives():
    (step,) = next_steps(run(losses=[3.0, 1.0, 0.4] + [0.02, 0.01] * 15))
    assert "`nearfar mine`" in step.advice
    assert "below 0.05 from about step 4 of 33 on" in step.reason


def test_loss_that_falls_slowly_or_rises_again_is_no_sign_of_easy_pairs():
    assert next_steps(run(losses=[3.0] * 12 + [0.01] * 20)) == []
    assert next_steps(run(losses=[0.01] * 24 + [1.0] * 8)) == []


def test_small_loss_of_a_teacher_is_no_sign_of_easy_pairs():
    values = {"models": ["t"], "kind": "distribution"}
    taught = recipe_from_values(RECIPE.model_dump(exclude_unset=True) | {"teacher": values})
    assert next_steps(run(losses=[0.01] * 30, recipe=taught)) == []


def test_few_documents_suggest_less_training():
    (step,) = next_steps(run(data=facts(counts=(990, 990, 90, 0))))
    assert "validation.interpolate=true" in step.advice
    assert step.reason.startswith("The 990 training pairs have only 90 different documents")
    assert next_steps(run(data=facts(counts=(4000, 4000, 400, 0)))) == []
    assert next_steps(run(data=facts(counts=(4001, 4001, 400, 0))))


def test_leaked_queries_suggest_another_split():
    leaks = [
        SharedTexts("test", "the same query", 2),
        SharedTexts("test", "a near-identical query", 3),
        SharedTexts("test", "a relevant document that is a positive", 9),
        SharedTexts("validation", "the same query", 5),
    ]
    (step,) = next_steps(run(data=facts(leaks=leaks)))
    assert "`nearfar data split`" in step.advice
    assert step.reason.startswith("5 test queries")
