"""Systems in mteb, and tasks of mteb as data, with the real package and without a network."""

import json
import socket
import sys

import numpy as np
import pytest
import pytrec_eval
from verbs import command_caller

import nearfar
from trainer.cli.evaluate import evaluate
from trainer.data.retrieval_set import read_retrieval_set
from trainer.errors import BadData, BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.evaluation.mteb.model import document_texts, query_texts
from trainer.evaluation.mteb.tasks import MtebData, set_from_task
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import (
    LateInteractionSettings,
    build_late_interaction_encoder,
)
from trainer.models.static_student import StaticSettings, build_static_encoder

mteb = pytest.importorskip("mteb", reason="mteb is not installed (pip install 'nearfar[mteb]')")
from datasets import Dataset  # noqa: E402
from mteb.get_tasks import _TASKS_REGISTRY  # noqa: E402

call = command_caller(evaluate)
WORDS = ("disk", "storage", "account", "query", "database", "machine", "region")
DOCUMENTS = [f"{first} {second}" for first in WORDS for second in WORDS]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    """49 documents and 15 queries with graded judgements."""
    folder = tmp_path_factory.mktemp("beir") / "toys"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{row}", "title": "", "text": text} for row, text in enumerate(DOCUMENTS)]
    queries = [{"_id": f"q{row}", "text": f"the {DOCUMENTS[3 * row]} now"} for row in range(15)]
    for name, texts in (("queries", queries), ("corpus", corpus)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, texts)))
    lines = [f"q{row}\td{3 * row + near}\t{2 - near}" for row in range(15) for near in (0, 1, 2)]
    (folder / "qrels/test.tsv").write_text("\n".join(["query\tcorpus\tscore", *lines]))
    return folder


@pytest.fixture(scope="module")
def models(toy_folder, tmp_path_factory):
    """A model of each family, by its name."""
    folder, backbone = tmp_path_factory.mktemp("models"), str(toy_folder("bert"))
    late = LateInteractionSettings(
        backbone=backbone,
        projection_dimensions=16,
        query_marker="",
        document_marker="",
        query_expansion=False,
        lora=None,
    )
    save_encoder(build_late_interaction_encoder(late), folder / "late")
    static = StaticSettings(backbone=backbone, dimensions=12)
    save_encoder(build_static_encoder(static), folder / "static")
    return {"dense": backbone, "late": str(folder / "late"), "static": str(folder / "static")}


@pytest.mark.parametrize("system", ["dense", "late", "static", "bm25", "hybrid:dense+bm25"])
def test_mteb_measures_a_system_as_we_do(system, models, beir, tmp_path):
    name = system
    for family, folder in models.items():
        name = name.replace(family, folder)
    ours = nearfar.evaluate([name], beir, bm25=False, precision="fp32").systems[0]
    result = mteb.evaluate(
        nearfar.mteb_model(name, precision="fp32"),
        nearfar.mteb_task(beir),
        cache=None,
        co2_tracker=False,
        prediction_folder=tmp_path,
        show_progress_bar=False,
    )
    (scores,) = result.task_results[0].scores["test"]
    assert scores["ndcg_at_10"] == round(ours.mean(), 5), "mteb rounds to five decimals"
    assert scores["recall_at_100"] == round(ours.mean("recall@100"), 5)
    predictions = json.loads(next(tmp_path.rglob("*_predictions.json")).read_text())
    run = predictions["default"]["test"]
    qrels = read_retrieval_set(str(beir)).qrels
    wanted = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)
    values = [wanted[query]["ndcg_cut_10"] for query in ours.query_ids]
    np.testing.assert_allclose(ours.metrics["ndcg@10"], values, atol=1e-9)
    assert 0 < np.mean(values) <= 1


def test_results_file_of_local_data_is_written_offline(models, beir, tmp_path):
    folder = tmp_path / "results-of-mteb"
    words = (models["dense"], "bm25", "--data", beir, "--precision", "fp32", "--examples", "0")
    ended = call(*words, "--mteb-results", folder, "--out", tmp_path / "out.json")
    assert ended.exit_code == 0, ended.output
    files = sorted(folder.rglob("toys.json"))
    assert len(files) == 2
    results = [mteb.TaskResult.from_disk(file).scores["test"][0] for file in files]
    ours = {round(each.mean(), 5) for each in read_evaluation(tmp_path / "out.json").systems}
    assert {scores["ndcg_at_10"] for scores in results} == ours
    assert f"wrote {files[0]}" in ended.stderr
    meta = json.loads((files[0].parent / "model_meta.json").read_text())
    assert meta["name"].startswith("nearfar/")


@pytest.fixture
def registered_task(beir, monkeypatch):
    """A task of mteb under the name ToyTask, found as its own tasks are."""
    task = nearfar.mteb_task(beir)
    monkeypatch.setitem(_TASKS_REGISTRY, "ToyTask", type(task))
    return type(task)


def test_task_of_mteb_is_measured_with_intervals(registered_task, models, tmp_path):
    words = ("--mteb", "ToyTask", "--precision", "fp32", "--max-queries", "10", "--examples", "0")
    outputs = ("--out", tmp_path / "out.json", "--mteb-results", tmp_path / "results")
    ended = call(models["dense"], *words, *outputs)
    assert ended.exit_code == 0, ended.output
    evaluation = read_evaluation(tmp_path / "out.json")
    assert evaluation.set_name == "toys test"
    assert len(evaluation.systems[-1].query_ids) == 10
    assert len(evaluation.comparisons) == 1
    files = list((tmp_path / "results").rglob("toys.json"))
    assert len(files) == 2


def test_set_of_a_task_equals_the_folder(registered_task, beir):
    ours, theirs = read_retrieval_set(str(beir)), MtebData.find("ToyTask", "dev").read()
    assert (ours.queries, tuple(ours.documents)) == (theirs.queries, theirs.documents)
    assert ours.qrels == theirs.qrels, "its only split is measured, though another one was named"


def test_query_without_a_relevant_document_is_left_out(registered_task):
    task = registered_task()
    task.load_data()
    task.dataset["default"]["test"]["relevant_docs"]["q3"] = {"d1": 0}
    assert "q3" not in set_from_task(task).query_ids
    task.dataset["default"]["test"]["relevant_docs"] = {"q3": {"d1": 0}}
    with pytest.raises(BadData, match="no query with a relevant document"):
        set_from_task(task)


def test_titles_and_instructions_are_part_of_the_texts():
    corpus = Dataset.from_dict({"id": ["a", "b"], "title": ["Title", ""], "text": ["text", "b "]})
    assert document_texts(corpus) == ["Title text", "b"]
    queries = {"id": ["q"], "text": ["question"], "instruction": ["in short"]}
    assert query_texts(Dataset.from_dict(queries)) == {"q": "question in short"}
    talks = Dataset.from_dict({"id": ["q"], "text": [[{"role": "user", "content": "x"}]]})
    with pytest.raises(BadData, match="query 'q' of the task is no text"):
        query_texts(talks)


def test_candidates_of_a_reranking_task_are_ranked_alone(models, beir):
    task = nearfar.mteb_task(beir)
    task.load_data()
    data = task.dataset["default"]["test"]
    model = nearfar.mteb_model(models["dense"], precision="fp32")
    model.index(data["corpus"], task_metadata=task.metadata)
    whole = model.search(data["queries"], top_k=49)
    candidates = {query: ["d40", "d7"] for query in data["queries"]["id"]}
    ranked = model.search(data["queries"], top_k=1, top_ranked=candidates)
    assert {query: set(hits) for query, hits in ranked.items()} == {
        query: {"d40", "d7"} for query in candidates
    }
    assert ranked["q0"]["d7"] == whole["q0"]["d7"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--mteb", "NFCorpos"), "mteb has no task 'NFCorpos' .*Did you mean: 'NFCorpus'"),
        (("--mteb", "STS12"), "STS12 is a task of STS; name a retrieval task"),
        (("--mteb", "MIRACLRetrieval"), r"subsets of MIRACLRetrieval are .*MIRACLRetrieval:"),
        (("--mteb", "MSMARCOv2"), "no split 'test', but .*; name one as MSMARCOv2:default:train"),
        (("--mteb", "NFCorpus:default:dev2"), "NFCorpus has no split 'dev2', but test"),
        (("--mteb", "NFCorpus", "--data", "x"), "leave --data and --corpus out"),
    ],
)
def test_task_that_cannot_be_used_is_named(words, problem):
    with pytest.raises(BadRecipe, match=problem):
        call("bm25", *words)


def test_task_that_cannot_be_loaded_says_where_data_come_from():
    with pytest.raises(BadData, match="mteb cannot load NFCorpus .* come from the hub"):
        call("bm25", "--mteb", "NFCorpus")


def test_missing_package_is_named(monkeypatch, beir, tmp_path):
    monkeypatch.setitem(sys.modules, "mteb", None)
    for words in (("--mteb", "NFCorpus"), ("--data", beir, "--mteb-results", tmp_path)):
        with pytest.raises(BadRecipe, match=r"pip install 'nearfar\[mteb\]'"):
            call("bm25", *words)
    with pytest.raises(BadRecipe, match=r"pip install 'nearfar\[mteb\]'"):
        nearfar.mteb_model("bm25")
