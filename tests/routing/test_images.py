"""A router whose routes are views of images and of texts, asked in words and by images."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked import nearfar as command
from image_toys import caption, drawing, encoded, write_image_set
from toy_models import make_image_text_toy

import nearfar
from trainer.data.readers.read import read_rows
from trainer.data.retrieval_set import RetrievalSet, read_retrieval_set
from trainer.errors import BadData, TooManyBadRows
from trainer.routing.answers import RouteAnswers
from trainer.routing.features import WordCounts
from trainer.routing.fit import fit_router
from trainer.routing.measure import ALL_NAME, ROUTER_NAME, evaluate_router
from trainer.routing.router import Router

NUMBERS = range(60)
ROUTES = ("bm25", "index:idx/views/image", "index:idx/views/text")
IMAGE_ROUTE = ROUTES[1]
QUESTION = "a red disk"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_folder):
    """An index with a view of images and one of their captions, and judged queries in `data`.

    The queries in words are the captions. In the test split, 12 queries are images.
    """
    folder = tmp_path_factory.mktemp("routed_images")
    make_image_text_toy("clip", folder / "clip")
    (folder / "bert").symlink_to(toy_folder("bert"))
    write_image_set(folder, NUMBERS)
    texts = [{"_id": f"i{number}", "text": caption(number)} for number in NUMBERS]
    images = [{"_id": f"i{number}", "image": f"img/{number}.png"} for number in NUMBERS]
    for model, view, rows in (("clip", "image", images), ("bert", "text", texts)):
        write_rows(folder / f"{view}s.jsonl", rows)
        run(folder, "index", model, f"{view}s.jsonl", "-o", "idx", "--view", view)
    write_judged(folder / "data", texts)
    return folder


def write_judged(folder, documents):
    """A BEIR folder of these documents whose test split has queries that are images, too."""
    (folder / "qrels").mkdir(parents=True)
    write_rows(folder / "corpus.jsonl", documents)
    queries = [{"_id": f"q{number}", "text": caption(number)} for number in NUMBERS]
    write_rows(folder / "queries.jsonl", queries)
    pictures = {f"p{number}": encoded(drawing(number)) for number in NUMBERS[::5]}
    table = pa.table({"_id": list(pictures), "image": list(pictures.values())})
    pq.write_table(table, folder / "queries.parquet")
    judgements = [f"q{number}\ti{number}\t1\n" for number in NUMBERS]
    images = [f"p{number}\ti{number}\t1\n" for number in NUMBERS[::5]]
    for split, lines in (("dev", judgements), ("test", judgements + images)):
        content = "query-id\tcorpus-id\tscore\n" + "".join(lines)
        (folder / "qrels" / f"{split}.tsv").write_text(content)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder, *words):
    process = command(*words, folder=folder)
    assert process.returncode == 0, process.stderr
    return process


@pytest.mark.parametrize("gains", [[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1], [-0.1, -0.1, -0.1]])
def test_hits_of_any_route_have_the_texts_and_images_of_all_views(folder, write_router, gains):
    write_router(folder, [float(gain) for gain in gains], ROUTES)
    process = run(folder, "search", "idx", QUESTION, "--json", "--router", "router")
    hits = json.loads(process.stdout)
    assert len(hits) == 5
    for hit in hits:
        number = int(hit["id"][1:])
        assert hit["text"] == caption(number)
        assert hit["image"] == str(folder / "img" / f"{number}.png")


@pytest.fixture(scope="module")
def router(folder):
    """A router that has learned from the captions; its folder is `fitted`."""
    fitted = run(folder, "route", "fit", "bm25", "idx", "--data", "data", "-o", "fitted")
    assert f"queries that are images: {IMAGE_ROUTE}, by rule" in fitted.stdout
    return Router.open(folder / "fitted")


def test_queries_in_words_and_images_are_one_set_each(folder):
    test = read_retrieval_set(str(folder / "data"), "test")
    assert test.query_ids == tuple(f"q{number}" for number in NUMBERS)
    images = test.image_queries
    assert images.query_ids == tuple(f"p{number}" for number in NUMBERS[::5])
    assert images.qrels["p5"] == {"i5": 1}
    assert images.document_ids == test.document_ids
    small = read_retrieval_set(str(folder / "data"), "test", max_queries=7)
    assert (len(small.queries), len(small.image_queries.queries)) == (7, 7)
    assert small.image_queries.qrels.keys() == set(small.image_queries.query_ids)
    assert read_retrieval_set(str(folder / "data"), "dev").image_queries is None


def test_selection_of_images_does_not_depend_on_the_folder(folder, tmp_path):
    rows = [{"_id": f"p{number}", "image": f"img/{number}.png"} for number in NUMBERS[::5]]
    selections = []
    for name in ("here", "elsewhere"):
        copy = shutil.copytree(folder / "data", tmp_path / name)
        shutil.copytree(folder / "img", copy / "img")
        pq.write_table(pa.Table.from_pylist(rows), copy / "queries.parquet")
        judged_set = read_retrieval_set(str(copy), "test", max_queries=4)
        selections.append(judged_set.image_queries.query_ids)
    assert selections[0] == selections[1]
    assert len(selections[0]) == 4


def test_images_are_left_out_of_training_pairs(folder):
    rows = read_rows(str(folder / "data"), split="test")
    assert sorted(rows.texts("query")) == sorted({caption(number) for number in NUMBERS})
    assert "12 queries are images, left out of the pairs" in rows.report.remark


def test_ids_of_images_may_be_numbers_and_a_table_of_texts_has_no_images(folder, tmp_path):
    data = shutil.copytree(folder / "data", tmp_path / "data")
    qrels = data / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text().replace("\np", "\n"))
    images = {number: encoded(drawing(number)) for number in NUMBERS[::5]}
    columns = {"_id": list(images), "image": list(images.values())}
    pq.write_table(pa.table(columns), data / "queries.parquet")
    ids = read_retrieval_set(str(data), "test").image_queries.query_ids
    assert ids == tuple(f"{number}" for number in NUMBERS[::5])
    texts = [{"_id": f"q{number}", "text": "in words"} for number in NUMBERS]
    pq.write_table(pa.Table.from_pylist(texts), data / "queries.parquet")
    assert read_retrieval_set(str(data), "dev").queries[0] == caption(0)
    pq.write_table(
        pa.Table.from_pylist([], pa.schema([("_id", "string")])), data / "queries.parquet"
    )
    assert "queries.parquet is empty" in read_rows(str(data), split="dev").report.remark


def test_images_are_left_out_of_what_cannot_read_them(folder):
    checked = run(folder, "data", "check", "data")
    assert "12 queries are images, left out of the pairs" in checked.stdout
    measured = run(folder, "evaluate", "bert", "--data", "data")
    assert "data test: 60 queries" in measured.stdout
    assert "12 queries are images: no system here can answer them" in measured.stderr


def test_view_of_images_answers_images_and_the_table_counts_them(folder, router):
    options = ("--data", "data", "--out", "e.json", "--cost", "1")
    measured = run(folder, "route", "evaluate", "fitted", *options)
    assert "data test: 72 queries, 12 of them images" in measured.stdout
    assert "data test, in words: 60 queries" in measured.stdout
    content = json.loads((folder / "e.json").read_text())
    assert f"only {IMAGE_ROUTE} holds images" in content["verdict"]
    assert "a rule and no prediction" in content["verdict"]
    assert content["images"]["quality"]["mean"] == 1.0, "the pictures are those of the documents"
    rows, words = ({row["name"]: row["quality"]["mean"] for row in part["rows"]}
                   for part in (content, content["in_words"]))  # fmt: skip
    assert rows["bm25"] == pytest.approx(words["bm25"] * 60 / 72), "it has no answer to an image"
    for name in (IMAGE_ROUTE, ALL_NAME, ROUTER_NAME):
        assert rows[name] == pytest.approx((words[name] * 60 + 12) / 72), name
    shares = content["shares"], content["in_words"]["shares"]
    assert shares[0][IMAGE_ROUTE] == pytest.approx((shares[1][IMAGE_ROUTE] * 60 + 12) / 72)


def test_costs_are_shares_of_the_time_of_all_routes_that_can_answer():
    """100 queries in words at 2, 6 and 12 ms, and 50 images of which the third route takes 20."""
    routes = ("bm25", "a", "index:b")
    ids = tuple(f"q{number}" for number in range(100))
    judged_set = RetrievalSet("toy dev", ids, ids, ("d",), ("text",), {})
    qualities = np.tile([0.9, 0.1, 0.1, 0.5], (100, 1))
    documents = tuple(f"d{number}" for number in range(100))
    words = RouteAnswers(routes, judged_set, ids, qualities, (2.0, 6.0, 12.0), documents)
    images = RouteAnswers(
        routes,
        judged_set,
        ids[:50],
        np.tile([0.0, 0.0, 0.4, 0.4], (50, 1)),
        (0.0, 0.0, 20.0),
        documents[:50],
    )
    answers = replace(words, image_routes=("index:b",), images=images)
    evaluation = evaluate_router(fit_router(answers, WordCounts.of(ids)), answers, 0.5)
    total = 100 * 20 + 50 * 20
    costs = {row.name: row.cost for row in evaluation.rows}
    assert costs["bm25"] == pytest.approx(100 * 2 / total)
    assert costs["index:b"] == pytest.approx((100 * 12 + 50 * 20) / total)
    assert costs[ALL_NAME] == 1.0
    choice = evaluation.choice_milliseconds
    assert costs[ROUTER_NAME] == pytest.approx((100 * (2 + choice) + 50 * 20) / total)
    assert evaluation.row(ROUTER_NAME).quality.mean == pytest.approx((100 * 0.9 + 50 * 0.4) / 150)
    assert evaluation.in_words.row(ROUTER_NAME).cost == pytest.approx((2 + choice) / 20)
    assert evaluation.images.milliseconds == 20.0


def test_image_is_searched_by_the_view_of_images_without_any_other_model(folder, router):
    options = ("--image", "img/5.png", "--json")
    (folder / "bert").rename(folder / "away")
    try:
        routed = run(folder, "search", "idx", *options, "--router", "fitted")
    finally:
        (folder / "away").rename(folder / "bert")
    assert f"the router asks {IMAGE_ROUTE}, as for any image\n" in routed.stderr
    assert routed.stdout == run(folder, "search", "idx", *options).stdout
    assert json.loads(routed.stdout)[0]["text"] == caption(5), "of the other view"


def test_route_of_an_image_is_told(folder, router):
    asked = run(folder, "route", "ask", "fitted", "red", "--image", "img/3.png")
    assert asked.stdout == f"{router.route_names(['red'])[0]}\tred\n{IMAGE_ROUTE}\timg/3.png\n"


def test_images_are_asked_and_searched_in_python(folder, router, monkeypatch):
    monkeypatch.chdir(folder)
    path = folder / "img" / "5.png"
    for image in (path, str(path), path.read_bytes()):
        assert nearfar.route_ask("fitted", image=image) == IMAGE_ROUTE
        routed = nearfar.search("idx", image=image, k=3, router="fitted")
        plain = nearfar.search("idx", image=image, k=3)
        assert [hit.document for hit in routed] == [hit.document for hit in plain]
    evaluation = nearfar.route_evaluate(router, "data", max_queries=8)
    assert (evaluation.queries, evaluation.images.count, evaluation.in_words.queries) == (16, 8, 8)
    for option in ({"rerank": "bert"}, {"cost": 0.5}):
        with pytest.raises(nearfar.NearfarError, match="for an image rerank and cost"):
            nearfar.search("idx", image=path, router="fitted", **option)
    with pytest.raises(TypeError, match="one of the two"):
        nearfar.route_ask("fitted")


def test_several_views_of_images_are_all_asked(folder, router, tmp_path):
    """Also of judged images, which need no texts."""
    shutil.copytree(folder / "idx" / "views" / "image", tmp_path / "two" / "views" / "first")
    shutil.copytree(folder / "idx" / "views" / "image", tmp_path / "two" / "views" / "second")
    shutil.copy(folder / "idx" / "manifest.json", tmp_path / "two")
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "data" / "corpus.jsonl").unlink()
    contents = [encoded(drawing(number)) for number in NUMBERS]
    table = pa.table({"_id": [f"i{number}" for number in NUMBERS], "image": contents})
    pq.write_table(table, tmp_path / "data" / "corpus.parquet")
    run(tmp_path, "route", "fit", "two", "--data", "data", "-o", "fitted")
    both = "index:two/views/first + index:two/views/second"
    picture = folder / "img" / "5.png"
    assert run(tmp_path, "route", "ask", "fitted", "--image", picture).stdout.startswith(both)
    routed = run(tmp_path, "search", "two", "--image", picture, "--router", "fitted", "--json")
    fused = run(tmp_path, "search", "two", "--image", picture, "--hybrid", "--json")
    assert routed.stdout == fused.stdout
    measured = run(tmp_path, "route", "evaluate", "fitted", "--data", "data", "--cost", "1")
    assert "all routes that hold images answer them together" in " ".join(measured.stdout.split())
    refused = command("route", "fit", "bm25", "two", "--data", "data", "-o", "x", folder=tmp_path)
    assert refused.returncode == 2
    assert "bm25 cannot search images, and the data are no folder with texts" in refused.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("ask", "fitted", "img/3.png"), "is the path of an image; to search with the image"),
        (("ask", "fitted", "--image", "a red disk"), "a red disk cannot be searched for: image"),
        (("ask", "fitted"), "give a QUERY in words, or --image FILE"),
        (("fit", "bm25", "clip", "--data", "data", "-o", "x"), "clip is a model of images; index"),
    ],
)
def test_images_and_words_in_each_others_place_are_refused(folder, router, words, problem):
    refused = command("route", *words, folder=folder)
    assert refused.returncode == 2
    assert problem in refused.stderr


def test_router_without_images_has_no_answer_to_an_image(folder):
    routes = ("bm25", ROUTES[2])
    run(folder, "route", "fit", *routes, "--data", "data", "-o", "texts")
    for words, problem in (
        (("route", "ask", "texts", "--image", "img/3.png"), "none of the router's routes holds"),
        (
            ("search", "idx", "--router", "texts", "--image", "img/3.png"),
            "write the query in words",
        ),
        (("route", "evaluate", "texts", "--data", "data"), "12 queries of data test are images"),
    ):
        refused = command(*words, folder=folder)
        assert refused.returncode == 2
        assert problem in refused.stderr


@pytest.mark.parametrize("options", [("--cost", "0.3"), ("--rerank", "bert")])
def test_options_for_words_are_refused_beside_an_image(folder, router, options):
    words = ("search", "idx", "--image", "img/3.png", "--router", "fitted", *options)
    refused = command(*words, folder=folder)
    assert refused.returncode == 2
    assert "leave --cost and --rerank out" in " ".join(refused.stderr.split())


def test_view_that_holds_texts_now_is_not_asked_by_an_image(folder, router, tmp_path):
    shutil.copytree(folder / "idx", tmp_path / "idx")
    shutil.rmtree(tmp_path / "idx" / "views" / "image")
    shutil.copytree(folder / "idx" / "views" / "text", tmp_path / "idx" / "views" / "image")
    with pytest.raises(nearfar.NearfarError, match="holds texts now; fit the router again"):
        nearfar.search(tmp_path / "idx", image=folder / "img" / "3.png", router=router)


def test_judgements_of_images_need_documents_and_words_beside_them(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    qrels = tmp_path / "data" / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "p0\tnowhere\t1\n")
    with pytest.raises(BadData, match="ids that are not in corpus.jsonl: 'nowhere'"):
        read_retrieval_set(str(tmp_path / "data"), "test")
    queries = tmp_path / "data" / "queries.parquet"
    pq.write_table(pa.table({"_id": [None], "image": [b""]}), queries)
    with pytest.raises(
        BadData, match=r"queries.parquet:1: the field '_id' is missing, expected a text"
    ):
        read_retrieval_set(str(tmp_path / "data"), "test")
    shutil.copy(folder / "data" / "queries.parquet", queries)
    qrels.write_text("query-id\tcorpus-id\tscore\np0\ti0\t1\n")
    with pytest.raises(BadData, match="no query in words with a relevant document"):
        read_retrieval_set(str(tmp_path / "data"), "test")


def test_image_among_queries_in_words_is_refused_with_a_hint(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    with (tmp_path / "data" / "queries.jsonl").open("a") as file:
        file.write('{"_id": "p60", "image": "img/5.png"}\n')
    with pytest.raises(TooManyBadRows, match=r"images belong in queries\.parquet"):
        read_retrieval_set(str(tmp_path / "data"), "test")
