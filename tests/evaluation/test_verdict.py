"""The verdict on a run: base model and BM25 both count, and so do test queries that were trained
on.
"""

import numpy as np
import pytest

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.evaluation_file import read_evaluation, write_evaluation
from trainer.evaluation.results import Selection, SystemResult, compare
from trainer.evaluation.verdict import verdict

QUERIES = tuple(f"q{number}" for number in range(40))
SET = RetrievalSet(
    "toy test", QUERIES, QUERIES, ("d",), ("text",), {query: {"d": 1} for query in QUERIES}
)


def system(name, score, spread=0.1):
    """A system whose nDCG@10 is about `score`, alike on every query."""
    values = score + spread * np.linspace(-1, 1, len(QUERIES))
    return SystemResult(name, QUERIES, {"ndcg@10": values}, {})


def evaluation(leaked=0, selection=None, **scores):
    names = {"bm25": "BM25", "base": "base", "tuned": "fine-tuned"}
    systems = [system(names[name], score) for name, score in scores.items()]
    return compare(SET, "test", systems, leaked_queries=leaked, selection=selection)


def test_gain_over_base_and_bm25_is_a_success():
    said = verdict(evaluation(bm25=0.2, base=0.3, tuned=0.5))
    assert said.success
    assert said.headline.startswith("nDCG@10 rose from 0.300 (base) to 0.500 (+0.200, 95 %")
    assert said.headline.endswith("p < 0.001) on 40 test queries that training never saw.")
    assert said.advice == ""


def test_gain_over_the_base_model_below_bm25_is_no_success():
    said = verdict(evaluation(bm25=0.590, base=0.139, tuned=0.293))
    assert not said.success
    assert said.headline.startswith(
        "Not better than BM25, which needs no training: nDCG@10 0.293 (0.139 before training)"
        " against 0.590 (−0.297"
    )
    assert "hard negatives" in said.advice
    assert "Next: search with BM25" in str(said)


def test_gain_over_bm25_that_chance_could_give_is_not_claimed():
    systems = [system("BM25", 0.5), system("base", 0.2), system("fine-tuned", 0.5001, spread=-0.1)]
    said = verdict(compare(SET, "test", systems, leaked_queries=0))
    assert not said.success
    assert said.headline.startswith("No proven gain over BM25")
    assert "Nothing is proven: with these queries, a difference of 0.0" in said.headline


def test_gain_counts_only_after_the_correction_for_all_comparisons():
    """40 differences with p = 0.03: proven alone, but not as one of two comparisons."""
    changes = np.where(np.arange(40) < 27, 0.1, -0.1)
    base, tuned = (system(name, 0.5) for name in ("base", "fine-tuned"))
    tuned.metrics["ndcg@10"] += changes
    one = compare(SET, "test", [base, tuned])
    assert 0.025 < one.comparisons[0].test.p_value < 0.05
    assert verdict(one).success
    both = compare(SET, "test", [system("BM25", 0.5), base, tuned])
    assert not verdict(both).success
    assert both.comparisons[1].test == one.comparisons[0].test


def test_loss_on_the_test_queries_is_called_worse():
    said = verdict(evaluation(bm25=0.2, base=0.743, tuned=0.688))
    assert not said.success
    assert said.headline.startswith(
        "Training made the model worse: nDCG@10 fell from 0.743 (base) to 0.688 (−0.055"
    )


def test_trained_test_queries_are_counted_and_prove_nothing():
    said = verdict(evaluation(leaked=23, bm25=0.2, base=0.3, tuned=0.5))
    assert not said.success
    assert said.headline.endswith(
        "on 40 test queries. This proves nothing: 23 of them were training queries too."
    )
    assert "data.test" in said.advice
    assert "never saw" not in said.headline


def test_unknown_leak_is_not_denied():
    said = verdict(evaluation(leaked=None, base=0.3, tuned=0.5))
    assert said.headline.endswith("on 40 test queries.")


BASE_WON = Selection(base_score=0.886, best_score=0.845, best_step=12)


@pytest.mark.parametrize("measured", [True, False])
def test_base_model_that_wins_is_named_first(measured):
    said = verdict(
        evaluation(selection=BASE_WON, bm25=0.4, base=0.743) if measured else None, BASE_WON
    )
    assert not said.success
    assert said.headline == (
        "Training did not help: the best validation nDCG@10 was 0.845 (step 12) and 0.886 before"
        " training, so model/ holds the model as it was before training."
    )
    assert "optimization.learning_rate" in said.advice


def test_base_model_that_wins_below_bm25_is_no_success():
    said = verdict(evaluation(selection=BASE_WON, bm25=0.590, base=0.139))
    assert said.headline.endswith("BM25 finds more than it: 0.590 against 0.139.")


def test_verdict_uses_validation_scores_without_test_queries():
    said = verdict(None, Selection(base_score=0.5, best_score=0.6, best_step=8))
    assert not said.success, "nothing is proven by the queries that chose the weights"
    assert "0.500 before training and 0.600 at step 8" in said.headline
    assert verdict(None) is None


@pytest.mark.parametrize(
    ("base", "best", "base_won"),
    [(0.5, 0.6, False), (0.5, 0.5, True), (0.5, 0.4, True), (None, 0.0, False), (0.5, None, True)],
)
def test_base_model_must_be_beaten(base, best, base_won):
    assert Selection(base, best, best_step=1).base_won == base_won


def test_verdict_survives_the_file(tmp_path):
    whole = evaluation(leaked=3, selection=BASE_WON, bm25=0.4, base=0.743)
    write_evaluation(whole, tmp_path / "evaluation.json")
    assert verdict(read_evaluation(tmp_path / "evaluation.json")) == verdict(whole)


def test_files_without_a_count_of_leaks_are_read(tmp_path):
    import json

    path = tmp_path / "evaluation.json"
    write_evaluation(evaluation(leaked=3, selection=BASE_WON, base=0.3, tuned=0.5), path)
    content = json.loads(path.read_text())
    del content["leaked_queries"], content["selection"]
    path.write_text(json.dumps(content))
    old = read_evaluation(path)
    assert (old.leaked_queries, old.selection) == (None, None)
    assert verdict(old).success
