"""`nearfar search --router`: the views that a router chooses, and no others, are asked."""

import json
import shutil

import numpy as np
import pytest
from forked import nearfar
from late_interaction_toys import new_encoder

from trainer.models.formats.folder import save_encoder
from trainer.routing.search import routes_of_views

QUESTION = "database machine"
WORDS = [
    "disk",
    "storage",
    "account",
    "query",
    "the",
    "database",
    "a",
    "machine",
    "in",
    "a",
    "region",
    "western",
    "vault",
]


def ids_of(folder, *options):
    process = nearfar("search", "idx", QUESTION, "--json", "-k", 4, *options, folder=folder)
    assert process.returncode == 0, process.stderr
    return [hit["id"] for hit in json.loads(process.stdout)], process.stderr


@pytest.mark.parametrize(
    ("gains", "view"), [([0, 0.1, 0], "dense"), ([0, 0, 0.1], "sparse")], ids=["dense", "sparse"]
)
def test_chosen_view_answers_alone(folder, write_router, gains, view):
    write_router(folder, [float(gain) for gain in gains])
    ids, told = ids_of(folder, "--router", "router")
    assert ids == ids_of(folder, "--view", view)[0]
    assert f"the router asks index:idx/views/{view}\n" in told


def test_words_are_searched_without_any_model(folder, write_router):
    write_router(folder, [0.1, 0.0, 0.0])
    (folder / "bert").rename(folder / "away")
    try:
        ids, told = ids_of(folder, "--router", "router")
        lost = nearfar("search", "idx", QUESTION, "--view", "dense", folder=folder)
    finally:
        (folder / "away").rename(folder / "bert")
    assert set(ids) == {"d1", "d2"}, "the documents with a word of the question"
    assert "the router asks bm25\n" in told
    assert lost.returncode == 2


def test_unsure_router_asks_all_and_adds_up_reciprocal_ranks(folder, write_router):
    rankings = []
    for gains in np.eye(3) - 0.5:
        write_router(folder, gains)
        rankings.append(ids_of(folder, "--router", "router")[0])
    write_router(folder, [-0.1, -0.1, -0.1])
    ids, told = ids_of(folder, "--router", "router")
    assert "asks bm25 + index:idx/views/dense + index:idx/views/sparse\n" in told
    scores = {
        document: sum(
            1 / (61 + ranking.index(document)) for ranking in rankings if document in ranking
        )
        for document in ids
    }
    assert [scores[document] for document in ids] == sorted(scores.values(), reverse=True)
    assert len(ids) == 4


def test_router_that_asks_all_says_that_it_returns_fewer_documents(folder, write_router, tmp_path):
    rows = [{"_id": f"d{row}", "text": f"machine {row}"} for row in range(130)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("-o", "idx", "--view", "dense")
    made = nearfar("index", folder / "bert", "corpus.jsonl", *options, folder=tmp_path)
    assert made.returncode == 0, made.stderr
    command = ("search", "idx", "machine", "--json", "-k", 130, "--router", "router")
    for gain, is_told in ((0.1, False), (-0.1, True)):
        write_router(tmp_path, [gain, -0.1], ["bm25", "index:idx/views/dense"])
        process = nearfar(*command, folder=tmp_path)
        count = len(json.loads(process.stdout))
        assert (
            f"{count} hits: the first 101 of each view are combined" in process.stderr
        ) == is_told
        assert (count < 130) == is_told


@pytest.fixture(scope="module")
def late_folder(toy_folder, tmp_path_factory):
    """An index of a late-interaction model, which is a view or not, and judged queries on it."""
    folder = tmp_path_factory.mktemp("late")
    save_encoder(new_encoder(toy_folder("bert")), folder / "late")
    texts = [" ".join([*WORDS[row % 9 : row % 9 + 3], f"number{row}"]) for row in range(60)]
    write_judged(folder / "data", texts)
    for options in (("-o", "plain"), ("-o", "idx", "--view", "late")):
        made = nearfar("index", "late", "data", "--kind", "exact", *options, folder=folder)
        assert made.returncode == 0, made.stderr
    return folder


def write_judged(folder, texts):
    """A data set in BEIR layout. The query of a document is its last two words."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{row}", "text": text} for row, text in enumerate(texts)]
    queries = [
        {"_id": f"q{row}", "text": " ".join(text.split()[-2:])} for row, text in enumerate(texts)
    ]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judgements = "".join(f"q{row}\td{row}\t1\n" for row in range(len(texts)))
    (folder / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judgements}")


@pytest.mark.parametrize(
    ("index", "route"), [("plain", "index:plain"), ("idx", "index:idx/views/late")]
)
def test_late_interaction_index_is_a_route(late_folder, write_router, index, route):
    routes, data = ["bm25", "idx" if index == "idx" else route], ("--data", "data")
    fit = nearfar(
        *("route", "fit", *routes, *data, "-o", "fitted", "--replace"), folder=late_folder
    )
    assert fit.returncode == 0, fit.stderr
    assert f"  {route}: nDCG@10 " in fit.stdout
    measured = nearfar(
        "route", "evaluate", "fitted", *data, "--split", "dev", "--cost", "1", folder=late_folder
    )
    assert measured.returncode == 0, measured.stderr
    command = ("search", index, QUESTION, "--json", "--router", "router")
    for gains, name in (([0.0, 0.1], route), ([-0.1, -0.1], f"bm25 + {route}")):
        write_router(late_folder, gains, ["bm25", route])
        process = nearfar(*command, folder=late_folder)
        assert process.returncode == 0, process.stderr
        assert f"the router asks {name}\n" in process.stderr
        assert len(json.loads(process.stdout)) == 5


def test_deleted_documents_of_a_late_interaction_index_are_not_found_by_words(
    late_folder, write_router
):
    """Their texts stay in its files until a segment is written anew."""
    shutil.copytree(late_folder / "plain", late_folder / "changed")
    texts = [f"number{number}" for number in range(10)]
    write_router(late_folder, [0.1, 0.0], ["bm25", "index:changed"], texts=texts)
    deleted = nearfar("delete", "changed", "d0", "d5", folder=late_folder)
    assert deleted.returncode == 0, deleted.stderr
    for number in (0, 1, 5, 6):
        command = ("search", "changed", f"number{number}", "--json", "--router", "router")
        process = nearfar(*command, folder=late_folder)
        assert process.returncode == 0, process.stderr
        ids = [hit["id"] for hit in json.loads(process.stdout)]
        assert ids == ([] if number in (0, 5) else [f"d{number}"])


@pytest.mark.parametrize("index", ["../idx", "../moved/copy"])
def test_views_are_matched_by_name_wherever_the_index_is(folder, write_router, index):
    write_router(folder, [0.1, 0.0, 0.0])  # BM25 is chosen, which needs no model
    (folder / "sub").mkdir(exist_ok=True)
    shutil.copytree(folder / "idx", folder / "moved" / "copy", dirs_exist_ok=True)
    routed = nearfar("search", index, QUESTION, "--router", "../router", folder=folder / "sub")
    assert routed.returncode == 0, routed.stderr
    assert "the router asks bm25\n" in routed.stderr


def test_index_without_views_may_be_moved(late_folder, write_router):
    shutil.copytree(late_folder / "plain", late_folder / "moved")
    write_router(late_folder, [0.0, 0.1], ["bm25", "index:plain"])
    routed = nearfar("search", "moved", QUESTION, "--router", "router", folder=late_folder)
    assert routed.returncode == 0, routed.stderr
    assert "the router asks index:moved\n" in routed.stderr


@pytest.mark.parametrize(
    ("routes", "lacking"),
    [
        (["bm25", "index:idx/views/other"], "index:idx/views/other"),
        (["bm25", "index:plain"], "index:plain"),
        (["index:idx/views/dense", "index:other/views/dense"], "index:other/views/dense"),
    ],
)
def test_router_of_other_routes_is_refused(folder, write_router, routes, lacking):
    write_router(folder, [0.1, 0.0], routes)
    refused = nearfar("search", "idx", QUESTION, "--router", "router", folder=folder)
    assert refused.returncode == 2
    assert f"but idx has no {lacking}; fit a router on its own routes" in refused.stderr
    both = nearfar("search", "idx", QUESTION, "--router", "router", "--hybrid", folder=folder)
    assert both.returncode == 2
    assert "--router chooses views; leave" in both.stderr


def test_cost_without_a_router_is_refused(tmp_path):
    refused = nearfar("search", "idx", QUESTION, "--cost", "0.3", folder=tmp_path)
    assert refused.returncode == 2
    assert "--cost is that of --router" in refused.stderr


def test_folder_of_views_stands_for_each_of_them(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert routes_of_views("idx") == ["index:idx/views/dense", "index:idx/views/sparse"]
    assert routes_of_views("bert") == ["bert"]
    assert routes_of_views("bm25") == ["bm25"]
