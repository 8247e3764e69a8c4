"""Names of systems, their fusion, and the files of their rankings."""

import numpy as np
import pytest
import pytrec_eval

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData, BadFolder, BadRecipe
from trainer.evaluation.metrics import per_query_metrics
from trainer.evaluation.run_file import make_runs_folder, read_run_file, write_runs
from trainer.evaluation.systems.combined import RankFusion, ScoreFusion
from trainer.evaluation.systems.names import FORMS, SystemName, parse_system
from trainer.evaluation.systems.system import Corpus, Preparation, RunSystem
from trainer.evaluation.systems.weights import choose_weights
from trainer.retrieval.fusion import fuse_ranks, fuse_scores, rank_documents


class FixedSystem:
    """A system that gives the same ranking for each query."""

    note, preparation = "", Preparation()

    def __init__(self, name, hits):
        self.name, self.hits = name, hits

    def search(self, queries, k):
        return {query: dict(rank_documents(self.hits[query])[:k]) for query in queries}


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("bm25", []),
        ("BM25", []),
        ("owner/model", []),
        ("index:some/idx", []),
        ("run:some/file.trec", []),
        ("hybrid:owner/a+bm25+index:idx", ["owner/a", "bm25", "index:idx"]),
        ("weighted:a+bm25", ["a", "bm25"]),
        ("rerank:bm25+owner/cross", ["bm25"]),
        ("rerank:hybrid:a+bm25+cross", ["hybrid:a+bm25"]),
    ],
)
def test_name_of_each_kind_is_parsed_and_printed_as_written(word, parts):
    name = parse_system(word)
    assert [str(part) for part in name.parts] == parts
    assert str(name) == word.replace("BM25", "bm25")
    assert name.kind in FORMS


def test_folder_that_looks_like_a_combination_is_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a+b", "hybrid:a+b", "bm25"):
        (tmp_path / folder).mkdir()
        assert parse_system(folder) == SystemName("model", folder)
    (tmp_path / "a+b" / "manifest.json").touch()
    with pytest.raises(BadRecipe, match=r"no model folder; to measure an index, write index:a\+b"):
        parse_system("a+b")


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("hybird:a+b", r"'hybird' is not a kind of system \(did you mean hybrid\?\); .* index:FOL"),
        ("http://host", "'http' is not a kind of system; a system is written MODEL, bm25"),
        ("bm52", r"neither a model folder nor another system \(did you mean bm25\?\)"),
        ("a+bm25", "write hybrid:a"),
        ("", "is empty"),
        ("run:", "names nothing; write run:FILE"),
        ("hybrid:a", "must combine two or more systems"),
        ("hybrid:a+", "must combine two or more systems"),
        ("hybrid:a+rerank:b", "must name a system and the model that re-ranks"),
        ("weighted:a+b+c+d", "combines 4 systems, but weights are chosen for at most 3"),
        ("rerank:a", "must name a system and the model that re-ranks"),
    ],
)
def test_wrong_name_is_refused_with_the_right_form(word, problem):
    with pytest.raises(BadRecipe, match=problem):
        parse_system(word)


def test_models_of_all_parts_are_found_in_run_folders():
    name = parse_system("rerank:hybrid:runs/a+bm25+runs/c")
    folders = name.with_models(lambda model: f"{model}/model")
    assert str(folders) == "rerank:hybrid:runs/a/model+bm25+runs/c/model"


def test_reciprocal_ranks_equal_a_calculation_by_hand():
    first = {"q": {"a": 9.0, "b": 8.0, "c": 7.0}, "only": {"a": 1.0}}
    second = {"q": {"c": 0.3, "d": 0.2}}
    fused = fuse_ranks([first, second], 3)
    assert list(fused["q"]) == ["c", "a", "d"], "of a third and a second rank, the second is first"
    assert fused["q"]["c"] == pytest.approx(1 / 63 + 1 / 61)
    assert fused["only"] == {"a": pytest.approx(1 / 61)}


def test_equal_scores_get_ranks_as_in_trec_eval():
    fused = fuse_ranks([{"q": {"a": 1.0, "b": 1.0}}, {"q": {"a": 1.0}}], 2)
    assert fused["q"]["a"] == pytest.approx(1 / 62 + 1 / 61)


def test_weighted_scores_equal_a_calculation_by_hand():
    others = {f"x{row}": 10.0 + row / 100 for row in range(100)}
    first = {"q": {"a": 30.0, "b": 20.0, "c": 10.0} | others}
    second = {"q": {"c": -1.0, "d": -3.0}}
    fused = fuse_scores([first, second], [0.75, 0.25], 200)
    assert [round(fused["q"][document], 6) for document in "abcd"] == [0.75, 0.375, 0.25, 0.0]


def test_last_document_with_a_common_word_is_ahead_of_those_without():
    words = {"q": {"right": 9.0, "near": 7.0}}
    vectors = {"q": {f"x{row}": 0.9 - row / 1000 for row in range(101)}}
    fused = fuse_scores([words, vectors], [0.6, 0.4], 3)["q"]
    assert list(fused) == ["right", "near", "x0"]
    assert fused["near"] == pytest.approx(0.6 * 7 / 9)


def test_system_of_weight_zero_adds_no_documents():
    words, vectors = {"q": {"a": 9.0, "b": 7.0}}, {"q": {"x": 0.9, "a": 0.8}}
    assert list(fuse_scores([words, vectors], [1.0, 0.0], 10)["q"]) == ["a", "b"]


def test_weighted_scores_of_few_or_no_documents():
    assert fuse_scores([{"q": {"a": 5.0}}], [1.0], 1) == {"q": {"a": 1.0}}
    assert fuse_scores([{"q": {}}], [1.0], 1) == {"q": {}}


def test_weights_are_those_with_the_best_dev_quality():
    """The first system is right on 15 queries, the second on 5, and each is sure only then."""
    generator = np.random.default_rng(0)
    qrels = {f"q{number}": {"right": 1} for number in range(20)}
    runs = [{}, {}]
    for number, query in enumerate(qrels):
        for place, run in enumerate(runs):
            is_right = (number < 15) == (place == 0)
            noise = {f"d{row}": float(score) for row, score in enumerate(generator.random(20))}
            run[query] = noise | {"right": 3.0 if is_right else 0.0}
    weights, quality = choose_weights(runs, qrels)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) > 0
    alone = [per_query_metrics(run, qrels, ["ndcg@10"])["ndcg@10"].mean() for run in runs]
    assert quality > max(alone)
    assert choose_weights([runs[0], runs[0]], qrels)[0] == (0.5, 0.5), "the most even"


def test_weighted_system_says_its_weights_and_where_they_come_from():
    dev = RetrievalSet("toy dev", ("q",), ("x",), ("a", "b"), ("", ""), {"q": {"a": 1}})
    right = FixedSystem("right", {"q": {"a": 2.0, "b": 1.0}, "t": {"a": 2.0, "b": 1.0}})
    wrong = FixedSystem("wrong", {"q": {"a": 1.0, "b": 2.0}, "t": {"a": 1.0, "b": 2.0}})
    system = ScoreFusion.learn([right, wrong], dev)
    assert system.name == "weighted: right + wrong"
    assert system.weights == (0.6, 0.4)
    assert "weights 0.6 right + 0.4 wrong, chosen on 1 queries of toy dev" in system.note
    assert list(system.search({"t": "x"}, 1)["t"]) == ["a"]
    assert list(RankFusion([right, wrong]).search({"t": "x"}, 10)["t"]) == ["b", "a"]


CORPUS = Corpus("toy", ("a", "b", "c"), ("", "", ""))


def test_written_runs_are_read_back_and_by_trec_eval(tmp_path):
    generator = np.random.default_rng(1)
    qrels = {f"q{number}": {"d1": 2, "d5": 1, "d9": 0} for number in range(30)}
    run = {
        query: {f"d{row}": float(score) for row, score in enumerate(generator.integers(0, 4, 12))}
        for query in qrels
    }
    make_runs_folder(tmp_path / "new")
    paths = write_runs({"some/model": run, "some:model": run, "BM25": {}}, qrels, tmp_path / "new")
    names = ["some_model.trec", "some_model_1.trec", "BM25.trec", "qrels.trec"]
    assert [path.name for path in paths] == names
    assert read_run_file(paths[0]) == run
    with paths[3].open() as judgements, paths[0].open() as rankings:
        evaluator = pytrec_eval.RelevanceEvaluator(
            pytrec_eval.parse_qrel(judgements), {"ndcg_cut_10", "map"}
        )
        oracle_values = evaluator.evaluate(pytrec_eval.parse_run(rankings))
    values = per_query_metrics(read_run_file(paths[0]), qrels, ["ndcg@10", "map"])
    for metric, name in (("ndcg@10", "ndcg_cut_10"), ("map", "map")):
        expected_values = [oracle_values[query][name] for query in qrels]
        np.testing.assert_allclose(values[metric], expected_values, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("q Q0 a 1 0.5 t\nq Q0 b 2 0.4\n", r"x\.trec:2: .* 6 fields, .* this one has 5"),
        ("q Q0 a 1 high t\n", r"x\.trec:1: the score, field 5, is 'high'"),
        ("q Q0 a 1 nan t\n", r"x\.trec:1: the score, field 5, is 'nan'; it must be a finite"),
        ("q Q0 a 1 2 t\n\nq Q0 a 2 1 t\n", r"x\.trec:3: document 'a' is listed twice"),
        ("\n", r"x\.trec is empty"),
    ],
)
def test_malformed_run_file_is_refused_with_its_line(tmp_path, text, problem):
    (tmp_path / "x.trec").write_text(text)
    with pytest.raises(BadData, match=problem):
        read_run_file(tmp_path / "x.trec")


def test_missing_and_binary_run_files_are_refused(tmp_path):
    (tmp_path / "run.trec").write_bytes(b"\xff\xfe")
    with pytest.raises(BadData, match="cannot be read as a run file"):
        read_run_file(tmp_path / "run.trec")
    with pytest.raises(BadData, match=r"there is no run file .*; did you mean .*run\.trec\?"):
        read_run_file(tmp_path / "run.tre")


def test_ids_with_spaces_are_escaped_in_the_files(tmp_path):
    run = {"a query": {"vm list": 3.0, "vm": 1.0}}
    path, judgements = write_runs({"s": run}, {"a query": {"vm list": 1}}, tmp_path)
    assert path.read_text().startswith("a%20query Q0 vm%20list 1 3.0 s\n")
    assert judgements.read_text() == "a%20query 0 vm%20list 1\n"
    system = RunSystem("s", path, Corpus("toy", ("vm list", "vm"), ("", "")))
    assert system.search({"a query": ""}, 5) == run
    assert system.note == ""


def test_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFolder, match="cannot be made"):
        make_runs_folder(tmp_path / "file")


def test_run_of_another_corpus_or_split_is_refused(tmp_path):
    path = tmp_path / "x.trec"
    path.write_text("q1 Q0 x 1 0.5 t\n")
    with pytest.raises(BadData, match="has no document of toy: its first one is 'x', .* has 'a'"):
        RunSystem("x", path, CORPUS)
    path.write_text("q1 Q0 x 1 0.5 t\nq1 Q0 a 2 0.4 t\n")
    system = RunSystem("x", path, CORPUS)
    assert system.note == "1 of its 2 documents are not in the corpus, and count as wrong"
    assert system.search({"q1": "", "q2": ""}, 1) == {"q1": {"x": 0.5}, "q2": {}}
    with pytest.raises(BadData, match="no result for any of the 1 queries: its first .* 'q1'"):
        system.search({"q9": ""}, 5)
