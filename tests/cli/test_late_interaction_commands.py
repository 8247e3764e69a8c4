"""index, add, delete, search and evaluate with a late-interaction model as a person calls them, in
one process to be quick.
"""

import json
import re

import numpy as np
import pytest
import torch
from late_interaction_toys import make_marked_bert
from verbs import command_caller, remove_layers_field

from trainer.cli.evaluate import evaluate
from trainer.cli.index import add, delete, index
from trainer.cli.search import search
from trainer.errors import BadData, BadModel, BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import (
    LateInteractionSettings,
    build_late_interaction_encoder,
    read_late_encoder,
)
from trainer.retrieval.encoding.encode import encode
from trainer.retrieval.token_index.explain import explain
from trainer.vectors.vectors import nearest_documents

call = command_caller(add, delete, evaluate, index, search, must_succeed=True)

TEXTS = [
    "delete a disk",
    "create a storage account",
    "show every query of the database",
    "list every virtual machine",
]


def saved(folder, **late):
    """A late-interaction model on a toy BERT with random weights: the same whichever tests ran
    before, and with no two scores so near to each other that float16 could exchange them.
    """
    torch.manual_seed(9)
    make_marked_bert(folder / "bert")
    wishes = LateInteractionSettings(
        backbone=str(folder / "bert"),
        projection_dimensions=16,
        query_max_length_tokens=12,
        query_prompt="",
        document_prompt="",
        **late,
        lora=None,
    )
    save_encoder(build_late_interaction_encoder(wishes).eval(), folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Without markers and filling, so that even random weights find a text by itself."""
    return saved(
        tmp_path_factory.mktemp("late"), query_marker="", document_marker="", query_expansion=False
    )


@pytest.fixture(scope="module")
def filling_model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("filling"))


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"doc{row}", "title": "", "text": text}) + "\n"
            for row, text in enumerate(TEXTS)
        )
    )
    (folder / "queries.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"q{row}", "text": f"{text} now"}) + "\n"
            for row, text in enumerate(TEXTS)
        )
    )
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{row}\tdoc{row}\t1\n" for row in range(4))
    )
    return folder


@pytest.mark.parametrize(
    "options",
    [("--kind", "exact"), ("--kind", "compressed", "--bits", "4"), ("--pool-factor", "2"), ()],
)
def test_index_is_built_and_searched(model, beir, tmp_path, options):
    said = call("index", model, beir, "-o", tmp_path / "idx", *options).stdout
    assert "4 documents, " + ("exact" if "exact" in options else "compressed") in said
    assert re.search(r"MB, [1-9][\d,]*\.\d times float16$", said.strip()), (
        "so few documents that the centroids and the probe are larger than they"
    )
    found = json.loads(call("search", tmp_path / "idx", TEXTS[1], "-k", 3, "--json").stdout)
    assert [hit["rank"] for hit in found] == [1, 2, 3]
    assert (found[0]["id"], found[0]["text"]) == ("doc1", TEXTS[1])


@pytest.mark.parametrize("filled", [True, False])
def test_search_explains_its_first_document(model, filling_model, beir, tmp_path, filled):
    call(
        "index", filling_model if filled else model, beir, "-o", tmp_path / "idx", "--kind", "exact"
    )
    page = call("search", tmp_path / "idx", "delete a disk", "-k", 1, "--explain").stdout
    rows = [line.split() for line in page.splitlines()]
    assert ["question", "first", "document", "similarity"] in rows
    assert filled or any(row[:2] == ["disk", "disk"] for row in rows)
    assert float(rows[-1][-1]) == pytest.approx(
        float(rows[0][1]), abs=0.01
    )  # the similarities add up to the score
    assert ("expansion tokens" in page) == filled
    call("index", model.parent / "bert", beir, "-o", tmp_path / "flat")
    with pytest.raises(BadModel, match="--explain"):
        call("search", tmp_path / "flat", "disk", "--explain")


def test_explanation_has_the_maximum_per_token_and_sums_to_the_score(filling_model):
    encoder = read_late_encoder(str(filling_model))
    matches = explain(encoder, "delete the disk!", TEXTS[0] + ".")
    queries = encode(encoder, ["delete the disk!"], "query")
    documents = encode(encoder, [TEXTS[0] + "."], "document")
    assert [match.similarity for match in matches] == pytest.approx(
        (queries[0] @ documents.rows.T).max(1).tolist(), abs=1e-5
    )
    scores, _ = nearest_documents(queries, documents, 1)
    assert sum(match.similarity for match in matches) == pytest.approx(
        float(scores[0, 0]), abs=1e-4
    )
    assert "!" in [match.query_token for match in matches]
    assert "." not in [match.document_token for match in matches]
    assert [match.filling for match in matches] == [
        match.query_token == "[MASK]" for match in matches
    ]


def test_documents_are_added_and_deleted(model, beir, tmp_path):
    call("index", model, beir, "-o", tmp_path / "idx")
    (tmp_path / "more.jsonl").write_text(
        json.dumps({"_id": "more", "text": "answers in one second"}) + "\n"
    )
    assert "5 documents" in call("add", tmp_path / "idx", tmp_path / "more.jsonl").stdout
    assert (
        json.loads(
            call("search", tmp_path / "idx", "answers in one second", "-k", 1, "--json").stdout
        )[0]["id"]
        == "more"
    )
    with pytest.raises(BadData, match="already has a document 'more'"):
        call("add", tmp_path / "idx", tmp_path / "more.jsonl")
    assert "3 documents" in call("delete", tmp_path / "idx", "more", "doc0").stdout
    assert {
        hit["id"]
        for hit in json.loads(call("search", tmp_path / "idx", "disk", "-k", 9, "--json").stdout)
    } == {"doc1", "doc2", "doc3"}
    with pytest.raises(BadData, match="no document 'doc0'"):
        call("delete", tmp_path / "idx", "doc0")


def test_second_text_file_is_added_to_an_index(model, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(TEXTS))
    (tmp_path / "more.txt").write_text("answers in one second\n")
    call("index", model, tmp_path / "corpus.txt", "-o", tmp_path / "idx")
    with pytest.raises(BadData, match="already has a document '1'.*field `_id`.*--id-prefix"):
        call("add", tmp_path / "idx", tmp_path / "more.txt")
    assert (
        "5 documents"
        in call("add", tmp_path / "idx", tmp_path / "more.txt", "--id-prefix", "more-").stdout
    )
    assert (
        json.loads(
            call("search", tmp_path / "idx", "answers in one second", "-k", 1, "--json").stdout
        )[0]["id"]
        == "more-1"
    )
    with pytest.raises(BadData, match="already has a document 'more-1'"):
        call("add", tmp_path / "idx", tmp_path / "more.txt", "--id-prefix", "more-")


@pytest.mark.parametrize("kind", ["exact", "compressed"])
def test_index_of_the_first_layers_uses_them_in_every_command(model, beir, tmp_path, kind):
    # Codes of 2 bits, learned from so few texts, may be too rough for the one that is added.
    bits = ["--bits", 4] if kind == "compressed" else []
    call("index", model, beir, "-o", tmp_path / "idx", "--layers", 1, "--kind", kind, *bits)
    (tmp_path / "more.jsonl").write_text(
        json.dumps({"_id": "more", "text": "answers in one second"}) + "\n"
    )
    call("add", tmp_path / "idx", tmp_path / "more.jsonl")
    assert json.loads((tmp_path / "idx" / "manifest.json").read_text())["layers"] == 1, (
        "after a change too"
    )
    assert (
        json.loads(
            call("search", tmp_path / "idx", "answers in one second", "-k", 1, "--json").stdout
        )[0]["id"]
        == "more"
    )
    call("delete", tmp_path / "idx", "more")
    call(
        "evaluate",
        model,
        "--data",
        beir,
        "--index",
        tmp_path / "idx",
        "--out",
        tmp_path / "evaluation.json",
        "--precision",
        "fp32",
    )
    _, exact, by_index = read_evaluation(tmp_path / "evaluation.json").systems
    assert (exact.name, by_index.name) == (f"{model} at 1 layers", f"{model} at 1 layers by idx")
    if kind == "exact":
        assert {
            query: [document for document, _ in hits] for query, hits in by_index.top.items()
        } == {query: [document for document, _ in hits] for query, hits in exact.top.items()}
    with pytest.raises(BadModel, match="other vectors .* search with the first layer of"):
        call("evaluate", model, "--data", beir, "--index", tmp_path / "idx", "--layers", 2)


def test_size_of_an_index_is_compared_with_float16(model, tmp_path):
    (tmp_path / "corpus.txt").write_text(
        "".join(
            f"{' '.join(np.random.default_rng(row).permutation(' '.join(TEXTS).split()))}\n"
            for row in range(200)
        )
    )
    assert re.search(
        r"MB, 1/[1-9]\.\d of float16$",
        call("index", model, tmp_path / "corpus.txt", "-o", tmp_path / "idx").stdout.strip(),
    )


def test_search_of_an_emptied_index_says_so(model, beir, tmp_path):
    call("index", model, beir, "-o", tmp_path / "idx")
    call("delete", tmp_path / "idx", *(f"doc{row}" for row in range(4)))
    found = call("search", tmp_path / "idx", "disk")
    assert (found.stdout, found.exit_code) == ("", 0)
    assert "contains no documents; add some with `nearfar add`" in found.stderr
    assert json.loads(call("search", tmp_path / "idx", "disk", "--json").stdout) == []


def test_index_without_the_layers_field_has_all_layers(model, beir, tmp_path):
    call("index", model, beir, "-o", tmp_path / "idx")
    remove_layers_field(tmp_path / "idx")
    assert (
        json.loads(call("search", tmp_path / "idx", TEXTS[1], "-k", 1, "--json").stdout)[0]["id"]
        == "doc1"
    )


def test_contradicting_options_are_refused(model, beir, tmp_path):
    kinds = "--kind flat is not for .* per token; its kinds are compressed, exact"
    with pytest.raises(BadRecipe, match=kinds):
        call("index", model, beir, "-o", tmp_path / "idx", "--kind", "flat")
    call("index", model.parent / "bert", beir, "-o", tmp_path / "flat")
    with pytest.raises(BadRecipe, match="per document; its kinds are flat, hnsw, ivf"):
        call("index", model.parent / "bert", beir, "-o", tmp_path / "idx", "--kind", "exact")
    with pytest.raises(
        BadModel, match="one vector per document, but the model gives one vector per token"
    ):
        call("search", tmp_path / "flat", "disk", "--model", model)
    call("index", model, beir, "-o", tmp_path / "idx")
    with pytest.raises(BadModel, match="one vector per document|vectors with 32 dimensions"):
        call("search", tmp_path / "idx", "disk", "--model", model.parent / "bert")


def test_index_is_evaluated(model, beir, tmp_path, monkeypatch):
    call("index", model, beir, "-o", tmp_path / "idx", "--kind", "exact")
    call(
        "evaluate",
        model,
        "--data",
        beir,
        "--index",
        tmp_path / "idx",
        "--out",
        tmp_path / "evaluation.json",
        "--precision",
        "fp32",
    )
    _, exact, by_index = read_evaluation(tmp_path / "evaluation.json").systems
    assert (exact.name, by_index.name) == (str(model), f"{model} by idx")
    assert by_index.top.keys() == exact.top.keys()
    for query, hits in exact.top.items():
        assert [document for document, _ in by_index.top[query]] == [
            document for document, _ in hits
        ]
    with pytest.raises(BadRecipe, match="belongs to one model"):
        call("evaluate", model, model.parent / "bert", "--data", beir, "--index", tmp_path / "idx")
    encoded = []
    systems = "trainer.evaluation.systems"
    for name in ("encoded_documents.encode_documents", "system.Bm25"):
        monkeypatch.setattr(f"{systems}.{name}", lambda *_, name=name, **__: encoded.append(name))
    with pytest.raises(BadModel, match="vectors with 32 dimensions|one vector per document"):
        call("evaluate", model.parent / "bert", "--data", beir, "--index", tmp_path / "idx")
    call("delete", tmp_path / "idx", "doc3")
    with pytest.raises(BadData, match="holds 3 documents, but .* has 4"):
        call("evaluate", model, "--data", beir, "--index", tmp_path / "idx")
    assert encoded == [], "refused before anything was encoded"
