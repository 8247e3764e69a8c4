import math

import numpy as np
import pytest
import pytrec_eval

from trainer.errors import BadData
from trainer.evaluation.metrics import per_query_metrics
from trainer.retrieval.fusion import rank_documents

ORACLE = {
    "ndcg@10": "ndcg_cut_10",
    "map": "map",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "precision@5": "P_5",
    "ndcg": "ndcg",
    "mrr": "recip_rank",
}


def oracle(run, qrels):
    """pytrec_eval's value of each query and metric; MRR@10 is its reciprocal rank where that is at
    least 1/10.
    """
    found = pytrec_eval.RelevanceEvaluator(qrels, set(ORACLE.values())).evaluate(run)
    values = {
        ours: np.array([found.get(query, {}).get(name, 0.0) for query in qrels])
        for ours, name in ORACLE.items()
    }
    return values | {"mrr@10": np.where(values["mrr"] >= 0.0999, values["mrr"], 0.0)}


def random_case(seed):
    """A run and judgements with ties of every kind: equal scores, scores that differ only beyond
    single precision, ids of any script.

    Negative relevance is left to a test by hand: the oracle now and then never returns from it.
    """
    generator = np.random.default_rng(seed)
    alphabet = ["d", "D", "é", "z", "\U0001f600", "￮", "1", "10", "9"]
    documents = list(
        dict.fromkeys(
            f"{alphabet[int(generator.integers(9))]}{generator.integers(200)}" for _ in range(150)
        )
    )
    run, qrels = {}, {}
    for query in range(3):
        judged = generator.choice(len(documents), generator.integers(1, 30), replace=False)
        qrels[f"q{query}"] = {documents[row]: int(generator.integers(0, 4)) for row in judged}
        shown = generator.choice(
            len(documents), generator.integers(1, len(documents)), replace=False
        )
        scores = generator.integers(
            0, generator.integers(1, 40), len(shown)
        ) / 7 + generator.choice([0, 1e-12, 1e-9, 1e-7], len(shown))
        run[f"q{query}"] = {
            documents[row]: float(score) for row, score in zip(shown, scores, strict=True)
        }
    return run, qrels


def test_metrics_equal_trec_eval_on_1000_random_runs_with_ties():
    """Judgements are graded, 0 to 3. All runs are measured at once, to be quick."""
    run, qrels = {}, {}
    for seed in range(1000):
        one_run, judgements = random_case(seed)
        run |= {f"{seed} {query}": hits for query, hits in one_run.items()}
        qrels |= {f"{seed} {query}": grades for query, grades in judgements.items()}
    tied = sum(len(set(map(np.float32, hits.values()))) < len(hits) for hits in run.values())
    assert tied > 1000
    oracle_values = oracle(run, qrels)
    for metric, values in per_query_metrics(run, qrels, list(oracle_values)).items():
        np.testing.assert_allclose(values, oracle_values[metric], atol=1e-12, err_msg=metric)


def test_order_of_ties_matters_in_the_random_runs():
    """Guards the test above: breaking ties by ascending id would not have passed."""
    changed = 0
    for seed in range(50):
        run, qrels = random_case(seed)
        turned = {
            query: {
                document: -float(rank)
                for rank, (document, _) in enumerate(
                    sorted(hits.items(), key=lambda hit: (-hit[1], hit[0]))
                )
            }
            for query, hits in run.items()
        }
        changed += not np.allclose(
            per_query_metrics(turned, qrels)["ndcg@10"], oracle(run, qrels)["ndcg@10"]
        )
    assert changed > 25


def test_missing_queries_and_queries_without_relevant_documents_count_zero():
    qrels = {
        "found": {"a": 1},
        "missing": {"a": 1},
        "nothing relevant": {"a": 0, "b": -1},
        "unjudged": {},
        "empty": {"a": 1},
    }
    run = {
        "found": {"a": 1.0},
        "nothing relevant": {"a": 1.0},
        "unjudged": {"a": 1.0},
        "empty": {},
        "not asked": {"a": 1.0},
    }
    for values in per_query_metrics(run, qrels).values():
        assert values.tolist() == [1, 0, 0, 0, 0]


def test_ndcg_equals_a_calculation_by_hand():
    values = per_query_metrics(
        {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": {"b": 2, "c": 1, "x": 3}}, ["ndcg@2", "ndcg"]
    )
    ideal = 3 + 2 / math.log2(3)
    assert values["ndcg@2"][0] == pytest.approx(2 / math.log2(3) / ideal)
    assert values["ndcg"][0] == pytest.approx((2 / math.log2(3) + 1 / 2) / (ideal + 1 / 2))


def test_negative_relevance_counts_as_zero():
    judged, plain = {"q": {"a": 1, "b": 0, "c": -1}}, {"q": {"a": 1}}
    run = {"q": {"c": 3.0, "b": 2.0, "a": 1.0}}
    of_judged, of_plain = per_query_metrics(run, judged), per_query_metrics(run, plain)
    assert {name: values.tolist() for name, values in of_judged.items()} == {
        name: values.tolist() for name, values in of_plain.items()
    }
    assert of_judged["ndcg@10"].tolist() == [0.5]


def test_many_queries_are_computed_in_blocks(monkeypatch):
    run, qrels = random_case(1)
    whole = per_query_metrics(run, qrels)
    monkeypatch.setattr("trainer.evaluation.metrics._BLOCK_QUERIES", 1)
    for metric, values in per_query_metrics(run, qrels).items():
        np.testing.assert_allclose(values, whole[metric], atol=1e-15)


def test_no_queries_give_no_values():
    assert all(len(values) == 0 for values in per_query_metrics({}, {}).values())


@pytest.mark.parametrize(
    "metric", ["ndcg@", "ndcg@0", "ndcg@-1", "ndcg@x", "hits@10", "precision", ""]
)
def test_unknown_metric_is_refused_by_name(metric):
    with pytest.raises(ValueError, match="unknown metric"):
        per_query_metrics({}, {}, [metric])


def test_nan_score_is_refused():
    with pytest.raises(BadData, match="NaN"):
        rank_documents({"a": float("nan"), "b": 1.0})
