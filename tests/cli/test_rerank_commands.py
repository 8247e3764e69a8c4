"""`nearfar search --rerank` and `nearfar evaluate --rerank` as a person calls them, in one process
to be quick.
"""

import json

import pytest
from verbs import command_caller

from trainer.cli.evaluate import evaluate
from trainer.cli.index import index
from trainer.cli.search import search
from trainer.errors import BadData, BadModel
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.models.cross_encoder import (
    read_cross_encoder,
)
from trainer.retrieval.indexes.searcher import Searcher
from trainer.retrieval.rerank import score_pairs

call = command_caller(evaluate, index, search)

TEXTS = [
    "delete a disk",
    "create a storage account",
    "show every query of the database",
    "list every virtual machine",
    "restart",
]


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beir")
    lines = [{"_id": f"doc{row}", "title": "", "text": text} for row, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "queries.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"q{row}", "text": f"{text} now"}) + "\n"
            for row, text in enumerate(TEXTS)
        )
    )
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{row}\tdoc{row}\t1\n" for row in range(5))
    )
    return folder


@pytest.fixture(scope="module")
def folder(model, beir, tmp_path_factory):
    made = tmp_path_factory.mktemp("index") / "index"
    call("index", model, beir, "-o", made, "--precision", "fp32")
    return made


def test_search_shows_both_stages(folder, cross):
    plain = json.loads(call("search", folder, "a disk", "-k", 5, "--json").stdout)
    found = json.loads(
        call(
            "search", folder, "a disk", "-k", 3, "--json", "--rerank", cross, "--rerank-depth", 4
        ).stdout
    )
    first = {hit["id"]: (hit["rank"], hit["score"]) for hit in plain[:4]}
    wanted = dict(
        zip(
            first,
            score_pairs(
                read_cross_encoder(str(cross)), [("a disk", hit["text"]) for hit in plain[:4]]
            ).tolist(),
            strict=True,
        )
    )
    assert [hit["id"] for hit in found] == sorted(wanted, key=lambda document: -wanted[document])[
        :3
    ]
    for rank, hit in enumerate(found, 1):
        assert hit["rank"] == rank
        assert hit["score"] == pytest.approx(wanted[hit["id"]], abs=1e-5)
        assert (hit["first_rank"], hit["first_score"]) == first[hit["id"]]
    text = call("search", folder, "a disk", "-k", 3, "--rerank", cross, "--rerank-depth", 4).stdout
    assert [
        line.split("was ")[1].split(",")[0] for line in text.splitlines() if "was " in line
    ] == [str(hit["first_rank"]) for hit in found]


def test_search_shows_the_requested_number_of_documents(folder, cross):
    """However small the depth is: documents without a score of the cross-encoder would have no
    place among the others.
    """
    found, wanted = (
        call(
            "search",
            folder,
            "a disk",
            "-k",
            3,
            "--json",
            "--rerank",
            cross,
            "--rerank-depth",
            depth,
        )
        for depth in (2, 3)
    )
    assert len(json.loads(found.stdout)) == 3
    assert found.stdout == wanted.stdout


def test_search_without_results_says_so(cross):
    with pytest.raises(BadData, match="no document to re-rank"):
        Searcher._rerank(read_cross_encoder(str(cross)), ["a disk"], [[]], 3)


def test_evaluate_shows_both_stages_and_compares_them(model, beir, cross, tmp_path):
    out = tmp_path / "evaluation.json"
    found = call(
        "evaluate",
        model,
        "--data",
        beir,
        "--rerank",
        cross,
        "--rerank-depth",
        3,
        "--out",
        out,
        "--precision",
        "fp32",
    )
    measured = read_evaluation(out)
    assert [system.name for system in measured.systems] == [
        "BM25",
        str(model),
        f"{model} + {cross}",
    ]
    first, second = measured.systems[1:]
    encoder = read_cross_encoder(str(cross))
    for query in first.query_ids:
        before, after = (
            [document for document, _ in system.top[query]] for system in (first, second)
        )
        scores = score_pairs(
            encoder,
            [(measured.queries[query], TEXTS[int(document[3:])]) for document in before[:3]],
        )
        order = sorted(range(3), key=lambda place: -scores[place])
        assert after == [*(before[place] for place in order), *before[3:]]
    assert [(each.baseline, each.system) for each in measured.comparisons] == [
        ("BM25", second.name),
        (first.name, second.name),
    ]
    assert found.stdout.count("nDCG@10") >= 2


def test_evaluate_reranks_the_results_of_an_index(model, beir, cross, folder, tmp_path):
    call(
        "evaluate",
        model,
        "--data",
        beir,
        "--index",
        folder,
        "--rerank",
        cross,
        "--out",
        tmp_path / "e.json",
        "--no-bm25",
        "--precision",
        "fp32",
    )
    names = [system.name for system in read_evaluation(tmp_path / "e.json").systems]
    assert names == [str(model), f"{model} by index", f"{model} by index + {cross}"]


class TestModelsOfAnotherKind:
    def test_bi_encoder_as_second_stage_is_refused(self, model, beir, folder):
        for arguments in (
            ("evaluate", model, "--data", beir, "--rerank", model),
            ("search", folder, "a disk", "--rerank", model),
        ):
            with pytest.raises(BadModel, match="no cross-encoder"):
                call(*arguments)

    def test_cross_encoder_as_first_stage_is_refused(self, beir, cross, tmp_path):
        for arguments in (
            ("evaluate", cross, "--data", beir),
            ("index", cross, beir, "-o", tmp_path / "index"),
        ):
            with pytest.raises(BadModel, match="is a cross-encoder"):
                call(*arguments)
        assert not (tmp_path / "index").exists()
