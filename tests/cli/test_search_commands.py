"""encode, index, search and evaluate as a person calls them, in one process to be quick."""

import json
from types import SimpleNamespace

import pytest
from encoded import encode as vectors_of
from verbs import command_caller, remove_layers_field, start

from trainer.cli.encode import encode
from trainer.cli.evaluate import evaluate
from trainer.cli.index import index
from trainer.cli.search import search
from trainer.errors import BadData, BadFolder, BadModel, BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.models.cut import read_cut
from trainer.models.formats.folder import save_encoder
from trainer.progress import listening

call = command_caller(encode, evaluate, index, search)

TEXTS = ["delete a disk", "create a storage account", "show every query of the database"]


@pytest.fixture(scope="module")
def model(toy_folder):
    return toy_folder("bert")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    lines = [{"_id": f"doc{row}", "title": "", "text": text} for row, text in enumerate(TEXTS)]
    lines.append(
        {
            "_id": "bad\x1b[31m",
            "title": "\u202etitle\x07",
            "text": "list\x1b]0;gone\x07 every virtual machine",
        }
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def beir(tmp_path, corpus):
    (tmp_path / "queries.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"q{row}", "text": f"{text} now"}) + "\n"
            for row, text in enumerate(TEXTS)
        )
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{row}\tdoc{row}\t1\n" for row in range(3))
    )
    return tmp_path


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_index_is_built_and_searched(model, corpus, tmp_path, kind):
    said = call("index", model, corpus, "-o", tmp_path / "idx", "--kind", kind)
    assert "4 documents" in said.stdout
    found = json.loads(call("search", tmp_path / "idx", TEXTS[1], "-k", 3, "--json").stdout)
    assert [hit["rank"] for hit in found] == [1, 2, 3]
    assert (found[0]["id"], found[0]["text"]) == ("doc1", TEXTS[1])
    assert found[0]["score"] == pytest.approx(1, abs=0.02)
    page = call("search", tmp_path / "idx", TEXTS[1], "-k", 1).stdout
    assert page.split()[0] == "1"
    assert TEXTS[1] in page


def test_results_cannot_move_the_cursor(model, corpus, tmp_path):
    call("index", model, corpus, "-o", tmp_path / "idx")
    for options in ((), ("--json",)):
        page = call(
            "search", tmp_path / "idx", "list every virtual machine", "-k", 4, *options
        ).stdout
        assert not {"\x1b", "\x07", "\u202e"} & set(page)
    assert "\\x1b" in call("search", tmp_path / "idx", "list every virtual machine", "-k", 4).stdout


def test_search_refuses_a_wrong_model_a_blank_query_and_a_wrong_folder(
    model, toy_folder, corpus, tmp_path
):
    call("index", model, corpus, "-o", tmp_path / "idx")
    with pytest.raises(BadModel, match="other vectors"):
        call("search", tmp_path / "idx", "disk", "--model", toy_folder("distilbert"))
    with pytest.raises(BadData, match="blank"):
        call("search", tmp_path / "idx", "  ")
    with pytest.raises(BadFolder, match="not an index"):
        call("search", tmp_path, "disk")
    with pytest.raises(BadFolder, match="--replace"):
        call("index", model, corpus, "-o", tmp_path / "idx")
    call("index", model, corpus, "-o", tmp_path / "idx", "--replace")


@pytest.mark.parametrize("width", [32, 10])
def test_index_of_the_first_layers_is_searched_and_evaluated_with_them(
    model, beir, tmp_path, width
):
    call(
        "index",
        model,
        beir / "corpus.jsonl",
        "-o",
        tmp_path / "idx",
        "--layers",
        1,
        "--dimensions",
        width,
    )
    assert json.loads((tmp_path / "idx" / "manifest.json").read_text())["layers"] == 1
    shallow = read_cut(str(model), 1, width)
    for question in ("a disk", TEXTS[1]):
        wanted = (
            vectors_of(shallow, [question], "query") @ vectors_of(shallow, TEXTS, "document").T
        )[0]
        found = json.loads(call("search", tmp_path / "idx", question, "-k", 4, "--json").stdout)
        assert {
            hit["id"]: hit["score"] for hit in found if hit["id"] in {"doc0", "doc1", "doc2"}
        } == pytest.approx(
            {f"doc{row}": score for row, score in enumerate(wanted.tolist())}, abs=1e-4
        )
    call(
        "evaluate",
        model,
        "--data",
        beir,
        "--index",
        tmp_path / "idx",
        "--no-bm25",
        "--out",
        beir / "evaluation.json",
        "--precision",
        "fp32",
    )
    exact, by_index = read_evaluation(beir / "evaluation.json").systems
    assert (exact.name, by_index.name) == (f"{model} at 1 layers", f"{model} at 1 layers by idx")
    if width == 32:
        assert by_index.top == exact.top


def test_other_layers_than_those_of_the_index_are_refused(model, beir, tmp_path):
    for verb in (
        ("encode", model),
        ("index", model, beir / "corpus.jsonl", "-o", tmp_path / "new"),
        ("evaluate", model, "--data", beir),
    ):
        with pytest.raises(
            BadModel, match="3 layers were requested, but the model has 2"
        ) as refused:
            call(*verb, "--layers", 3, stdin=b"a disk\n")
        assert refused.value.exit_code == 2
    assert not (tmp_path / "new").exists()
    call("index", model, beir / "corpus.jsonl", "-o", tmp_path / "idx", "--layers", 1)
    with pytest.raises(BadModel, match="other vectors .* search with the first layer of"):
        call("evaluate", model, "--data", beir, "--index", tmp_path / "idx", "--layers", 2)
    call("index", model, beir / "corpus.jsonl", "-o", tmp_path / "deep", "--layers", 2)
    save_encoder(read_cut(str(model), 1, None), tmp_path / "small")
    for verb in (
        ("search", tmp_path / "deep", "disk", "--model", tmp_path / "small"),
        ("evaluate", tmp_path / "small", "--data", beir, "--index", tmp_path / "deep"),
    ):
        with pytest.raises(
            BadModel,
            match=(
                "2 layers were requested, but the model has 1; .* with the first 2 layers of"
                f" {model}"
            ),
        ):
            call(*verb)
    call("search", tmp_path / "idx", "disk", "--model", tmp_path / "small")


def test_index_without_the_layers_field_has_all_layers(model, corpus, tmp_path):
    call("index", model, corpus, "-o", tmp_path / "idx")
    remove_layers_field(tmp_path / "idx")
    assert (
        json.loads(call("search", tmp_path / "idx", TEXTS[1], "-k", 1, "--json").stdout)[0]["id"]
        == "doc1"
    )


def test_evaluate_shows_the_first_model_last_and_compares_with_it(model, toy_folder, beir):
    other = toy_folder("distilbert")
    found = call(
        "evaluate",
        model,
        other,
        "--data",
        beir,
        "--out",
        beir / "evaluation.json",
        "--precision",
        "fp32",
    )
    assert found.exit_code == 0
    evaluation = read_evaluation(beir / "evaluation.json")
    assert [system.name for system in evaluation.systems] == ["BM25", str(other), str(model)]
    assert {(each.baseline, each.system) for each in evaluation.comparisons} == {
        ("BM25", str(model)),
        (str(other), str(model)),
    }
    assert "nDCG@10 [95 %]" in found.stdout
    assert "✓" in found.stdout


def test_evaluate_runs_without_bm25_and_with_fewer_queries(model, beir):
    found = call("evaluate", model, "--data", beir, "--no-bm25", "--max-queries", 2)
    assert "BM25" not in found.stdout
    assert "2 queries, 4 documents" in found.stdout


def test_evaluate_refuses_bad_options_before_it_computes(model, beir):
    with pytest.raises(BadRecipe, match="named twice"):
        call("evaluate", model, model, "--data", beir)
    with pytest.raises(BadModel, match="there is no model folder"):
        call("evaluate", beir / "nothing", "--data", beir)
    with pytest.raises(BadFolder, match="does not exist"):
        call("evaluate", model, "--data", beir, "--out", beir / "no" / "x.json")
    with pytest.raises(BadData):
        call("evaluate", model, "--data", beir, "--split", "dev")


def test_missing_index_is_refused_before_heavy_imports(tmp_path):
    exit_code, has_torch, errors = start("search", "none", "a disk", folder=tmp_path)
    assert (exit_code, has_torch) == (2, False), errors
    assert "none does not exist" in errors


def test_search_tells_what_it_waits_for(model, corpus, tmp_path):
    call("index", model, corpus, "-o", tmp_path / "idx")
    names = []
    listener = SimpleNamespace(
        begin=lambda phase: names.append(phase.name), end=lambda phase: None, expect=dict
    )
    with listening(listener):
        call("search", tmp_path / "idx", TEXTS[1])
    assert names[:2] == ["loading the libraries", "loading the model"]
