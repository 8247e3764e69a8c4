"""`nearfar evaluate` of systems of every kind as a person calls it, in one process to be quick."""

import json

import pytest
from verbs import command_caller

from trainer.cli.evaluate import evaluate
from trainer.cli.index import index
from trainer.errors import BadData, BadModel, BadRecipe, SystemsFailed
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.retrieval.encoding.encode import encode_documents

call = command_caller(evaluate, index)
WORDS = ("disk", "storage", "account", "query", "database", "machine", "region")
DOCUMENTS = [f"{first} {second}" for first in WORDS for second in WORDS]


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    """49 documents; 10 test and 10 dev queries."""
    folder = tmp_path_factory.mktemp("beir") / "toys"
    (folder / "qrels").mkdir(parents=True)
    queries = {f"q{row}": f"the {DOCUMENTS[2 * row]} now" for row in range(20)}
    corpus = {f"d{row}": text for row, text in enumerate(DOCUMENTS)}
    for name, texts in (("queries", queries), ("corpus", corpus)):
        lines = (json.dumps({"_id": id, "title": "", "text": text}) for id, text in texts.items())
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    for split, rows in (("test", range(10)), ("dev", range(10, 20))):
        lines = [f"q{row}\td{2 * row}\t1" for row in rows]
        (folder / f"qrels/{split}.tsv").write_text("\n".join(["query\tcorpus\tscore", *lines]))
    return folder


@pytest.fixture(scope="module")
def measured(model, cross, beir, tmp_path_factory):
    """All kinds of systems in one call: its result, its evaluation and the folder of the runs."""
    folder = tmp_path_factory.mktemp("measured")
    call("index", model, beir, "-o", folder / "idx", "--precision", "fp32")
    result = call(
        "evaluate",
        model,
        f"hybrid:{model}+bm25",
        f"weighted:{model}+bm25",
        f"rerank:bm25+{cross}",
        f"index:{folder / 'idx'}",
        *("--data", beir, "--precision", "fp32", "--rerank-depth", "5", "--examples", "0"),
        *("--out", folder / "evaluation.json", "--save-runs", folder / "runs"),
    )
    assert result.exit_code == 0, result.output
    return result, read_evaluation(folder / "evaluation.json"), folder


def test_systems_are_rows_and_are_compared_with_the_first(measured, model, cross):
    _, evaluation, folder = measured
    assert [system.name for system in evaluation.systems] == [
        "BM25",
        f"index:{folder / 'idx'}",
        f"BM25 + {cross}",
        f"weighted: {model} + BM25",
        f"hybrid: {model} + BM25",
        str(model),
    ]
    assert {comparison.system for comparison in evaluation.comparisons} == {str(model)}
    assert len(evaluation.comparisons) == 5
    by_index, exact = evaluation.systems[1], evaluation.systems[-1]
    assert by_index.top == exact.top


def test_weights_are_chosen_on_dev_and_printed(measured, model):
    result, evaluation, _ = measured
    note = evaluation.systems[3].note
    assert note.startswith("weights 0.")
    assert "chosen on 10 queries of toys dev, where they have nDCG@10 0." in note
    assert "chosen on 10 queries of toys dev" in " ".join(result.stdout.split())


def test_column_of_a_folder_that_has_none_is_refused(beir):
    with pytest.raises(BadRecipe, match="toys is a folder in BEIR layout.*leave --column out"):
        evaluate(["bm25"], data=str(beir), column=["query=title"])


def test_documents_are_encoded_once_for_all_systems(model, beir, monkeypatch):
    counts = []

    def count(encoder, texts, **settings):
        counts.append(len(texts))
        return encode_documents(encoder, texts, **settings)

    monkeypatch.setattr("trainer.evaluation.systems.encoded_documents.encode_documents", count)
    words = (model, f"hybrid:{model}+bm25", f"weighted:{model}+bm25")
    assert call("evaluate", *words, "--data", beir, "--examples", "0").exit_code == 0
    assert counts == [49]


def test_saved_runs_give_the_same_figures(measured, beir, tmp_path):
    _, evaluation, folder = measured
    files = sorted((folder / "runs").glob("*.trec"))
    assert "qrels.trec" in [file.name for file in files]
    runs = [f"run:{file}" for file in files if file.name != "qrels.trec"]
    out = tmp_path / "out.json"
    ended = call("evaluate", *runs, "--data", beir, "--no-bm25", "--out", out)
    assert ended.exit_code == 0
    figures = {
        tuple(tuple(values) for values in system.metrics.values())
        for system in read_evaluation(out).systems
    }
    assert figures == {
        tuple(tuple(values) for values in system.metrics.values()) for system in evaluation.systems
    }


def test_queries_that_a_run_lacks_count_zero(measured, beir, tmp_path):
    run = tmp_path / "part.trec"
    _, evaluation, folder = measured
    lines = (folder / "runs/BM25.trec").read_text().splitlines(keepends=True)
    run.write_text("".join(line for line in lines if line.split()[0] not in ("q3", "q7")))
    ended = call("evaluate", f"run:{run}", "--data", beir, "--no-bm25", "--out", tmp_path / "o")
    (system,) = read_evaluation(tmp_path / "o").systems
    whole = dict(zip(system.query_ids, evaluation.systems[0].metrics["map"], strict=True))
    for query, value in zip(system.query_ids, system.metrics["map"], strict=True):
        assert value == (0 if query in ("q3", "q7") else whole[query] or -1)
    assert system.note == "nothing was found for 2 of 10 queries, which count 0"
    assert "nothing was found for 2 of 10 queries" in " ".join(ended.stdout.split())


def test_system_that_fails_does_not_stop_the_others(model, beir, tmp_path):
    words = ("evaluate", beir / "gone", "bm25", model, f"index:{beir}", "--data", beir)
    with pytest.raises(SystemsFailed, match=r"^index:.*/gone could not be measured") as failed:
        call(*words, "--out", tmp_path / "out.json", "--precision", "fp32")
    assert failed.value.exit_code == 84
    evaluation = read_evaluation(tmp_path / "out.json")
    assert [system.name for system in evaluation.systems] == [str(model), "BM25"]
    assert [failure.system for failure in evaluation.failures] == [
        f"index:{beir}",
        str(beir / "gone"),
    ]
    assert "there is no model folder" in evaluation.failures[1].problem
    assert "was not measured: " in repr(evaluation)


def test_failed_systems_are_in_the_table(model, beir, capsys):
    with pytest.raises(SystemsFailed):
        evaluate(["bm25", str(beir / "gone")], data=str(beir), examples=0)
    shown = " ".join(capsys.readouterr().out.split())
    assert "/gone not measured" in shown
    assert "gone was not measured: there is no model folder" in shown


def test_nothing_is_measured_if_all_systems_fail(beir):
    with pytest.raises(BadModel, match="there is no model folder"):
        call("evaluate", beir / "gone", "--data", beir)
    with pytest.raises(BadModel, match=r"no system could be measured\n.*/lost: .*\n.*/gone: "):
        call("evaluate", beir / "gone", beir / "lost", "--data", beir)


def test_bad_words_and_files_are_refused_before_anything_is_read(model, beir, tmp_path):
    for word, problem in (("hybird:a+bm25", "did you mean hybrid"), ("bm52", "mean bm25")):
        with pytest.raises(BadRecipe, match=problem):
            call("evaluate", model, word, "--data", "nowhere")
    (tmp_path / "x.trec").write_text("q0 Q0 d0 1 0.5 t\nbroken\n")
    with pytest.raises(BadData, match=r"x\.trec:2: "):
        call("evaluate", model, f"run:{tmp_path / 'x.trec'}", "--data", "nowhere")


def test_weights_need_dev_queries_that_are_not_measured(beir):
    ended = call("evaluate", "weighted:bm25+bm25", "--data", beir, "--split", "dev", "--no-bm25")
    assert ended.exit_code == 0
    assert "have no dev queries beside those that are measured" in ended.stderr
    assert "hybrid: BM25 + BM25" in ended.stdout


def test_judgements_of_other_queries_are_refused(beir, tmp_path):
    (tmp_path / "qrels").mkdir()
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / name).write_text((beir / name).read_text())
    (tmp_path / "qrels/test.tsv").write_text("query\tcorpus\tscore\nother1\td0\t1\nother2\td1\t1\n")
    with pytest.raises(BadData, match="2 ids that are not in queries.jsonl: 'other1', 'other2'"):
        call("evaluate", "bm25", "--data", tmp_path)
