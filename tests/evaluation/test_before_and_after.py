"""What training has changed on general collections: measured once before it and once after it."""

import numpy as np
import pytest

from trainer.build.data import data_sets
from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData
from trainer.evaluation.before_and_after import measure_after, measure_before
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.evaluation.results import Selection, SystemResult
from trainer.evaluation.verdict import verdict
from trainer.recipe.schema.data import DataSection
from trainer.tracking.results import summary_of_evaluation

QUERIES = tuple(f"q{number}" for number in range(40))
TRAINED = Selection(base_score=0.5, best_score=0.6, best_step=8)
BASE_WON = Selection(base_score=0.6, best_score=0.5, best_step=8)


def judged_set(name):
    judgements = {query: {"d": 1} for query in QUERIES}
    return RetrievalSet(f"{name} test", QUERIES, QUERIES, ("d",), (f"text of {name}",), judgements)


SETS = [judged_set(name) for name in ("own", "news", "law")]


def model(name, *changes, measured=None):
    """Measures a model whose nDCG@10 on each set is 0.5 plus the change, with a little noise."""

    def measure(each):
        (measured if measured is not None else []).append(each.name)
        noise = np.random.default_rng(len(each.name)).normal(0, 0.05, len(QUERIES))
        values = 0.5 + changes[SETS.index(each)] * (1 + noise)
        return SystemResult(name, QUERIES, {"ndcg@10": values}, {})

    return measure


def evaluation(folder, selection=TRAINED, base=True, changes=(0.2, -0.05, 0.01), leaks=0):
    sets_of_base = model("base", 0, 0, 0) if base else None
    before = measure_before(SETS, sets_of_base, folder / "baselines.json")
    tuned = None if selection.base_won else model("fine-tuned", *changes)
    path = folder / "evaluation.json"
    measured = measure_after(before, SETS, tuned, lambda _: leaks, selection, path)
    assert verdict(measured) == verdict(read_evaluation(path))
    return read_evaluation(path)


def test_verdict_has_a_line_per_collection_and_the_mean_change(tmp_path):
    words = verdict(evaluation(tmp_path))
    news, law, mean = words.general
    assert news.startswith("general: news nDCG@10 0.500 to 0.4")
    assert "on 40 test queries that training never saw. Worse, proven." in news
    assert law.endswith("Better, proven.")
    assert mean == "general: mean change −0.020 over 2 collections."
    assert words.success, "the figures of the test queries decide"
    assert "validation.interpolate=true" in words.advice
    assert str(words).splitlines()[1:] == list(words.general)


def test_collections_are_corrected_together_and_apart_from_the_test(tmp_path):
    result = evaluation(tmp_path)
    for each in result.general:
        (comparison,) = each.comparisons
        assert comparison.corrected_p_value == pytest.approx(2 * comparison.test.p_value)
    assert len(result.comparisons) == 2, "BM25 and the base model"


def test_gain_elsewhere_needs_no_advice(tmp_path):
    words = verdict(evaluation(tmp_path, changes=(0.2, 0.05, 0.01)))
    assert words.advice == ""


def test_base_model_that_won_is_unchanged(tmp_path):
    news, _ = verdict(evaluation(tmp_path, BASE_WON)).general
    assert news.startswith("general: news nDCG@10 0.500 and unchanged, since model/ holds the base")


def test_new_model_has_no_change(tmp_path):
    news, _ = verdict(evaluation(tmp_path, base=False)).general
    assert news.startswith("general: news nDCG@10 0.4")
    assert " to " not in news


def test_training_queries_in_a_collection_are_named(tmp_path):
    news, *_ = verdict(evaluation(tmp_path, leaks=3)).general
    assert "This proves nothing: 3 of them were training queries too." in news


def test_trackers_get_the_figures_of_each_collection(tmp_path):
    summary = summary_of_evaluation(evaluation(tmp_path))
    assert summary["general/news/base/ndcg@10"] == 0.5
    assert summary["general/news/fine-tuned/difference_to_base"] == pytest.approx(-0.05, abs=0.005)
    assert summary["general/mean_change"] == pytest.approx(-0.02, abs=0.005)
    assert summary["test/base/ndcg@10"] == 0.5


def test_base_model_is_not_measured_again(tmp_path):
    measured = []
    path = tmp_path / "baselines.json"
    first = measure_before(SETS, model("base", 0, 0, 0, measured=measured), path)
    assert measured == [each.name for each in SETS]
    second = measure_before(SETS, model("base", 1, 1, 1, measured=measured), path)
    assert len(measured) == 3
    assert [each.systems[0].mean() for each in second.general] == [0.5, 0.5]
    assert [each.set_name for each in first.general] == ["news test", "law test"]


@pytest.fixture
def data(tmp_path):
    """Values of the section `data` that are right, and a folder with one collection."""
    for name in ("one", "other/one"):
        (tmp_path / name / "qrels").mkdir(parents=True)
        (tmp_path / name / "corpus.jsonl").write_text('{"_id": "d", "text": "a disk"}\n')
        (tmp_path / name / "queries.jsonl").write_text('{"_id": "q", "text": "disk"}\n')
        (tmp_path / name / "qrels/test.tsv").write_text("q\td\t1\n")
    rows = [f'{{"query": "the {n}", "positive": "a {n}"}}\n' for n in range(20)]
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("".join(rows[:10] if name == "train.jsonl" else rows[10:]))
    return {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}


@pytest.mark.parametrize(
    ("folders", "problem"),
    [
        (["on"], "is not a BEIR folder .*; did you mean .*one?"),
        (["test.jsonl"], "is not a BEIR folder"),
        (["one", "other/one"], "several sets that are called 'one test'"),
    ],
)
def test_bad_collections_are_refused(data, tmp_path, folders, problem):
    paths = tuple(str(tmp_path / name) for name in folders)
    with pytest.raises(BadData, match=problem):
        data_sets(DataSection(**data, general=paths), seed=1)


def test_collections_need_test_queries_and_the_test_split(data, tmp_path):
    one = tmp_path / "one"
    assert [each.name for each in data_sets(DataSection(**data, general=str(one)), 1).general] == [
        "one test"
    ]
    with pytest.raises(BadData, match="name judged queries as data.test"):
        data_sets(DataSection(**data | {"test": None}, general=str(one)), seed=1)
    (one / "qrels/test.tsv").rename(one / "qrels/dev.tsv")
    with pytest.raises(BadData, match=r"no split 'test'.*splits there: dev"):
        data_sets(DataSection(**data, general=str(one)), seed=1)
