"""Queries that are images: measured with the systems that hold images, as a set of their own."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_toys import caption, drawing, encoded, write_image_set
from toy_models import make_image_text_toy
from verbs import command_caller

import nearfar
from trainer.cli.evaluate import evaluate
from trainer.cli.index import index
from trainer.errors import SystemsFailed
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.evaluation.run_file import read_run_file
from trainer.models.towers.image_text import read_image_text_encoder
from trainer.retrieval.encoding.encode import encode
from trainer.tracking.results import summary_of_evaluation

call = command_caller(evaluate, index)
NUMBERS = range(32)
PICTURES = NUMBERS[::4]
VIEWS = ["index:idx/views/text", "index:idx/views/image"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_folder):
    """Judged images in `pictures`, their names in `names`, and an index with views of both.

    In both sets, eight queries are images, each in a colour of its own as seen by the model.
    """
    folder = tmp_path_factory.mktemp("image_queries")
    make_image_text_toy("clip", folder / "clip")
    (folder / "bert").symlink_to(toy_folder("bert"))
    write_image_set(folder / "pictures", NUMBERS)
    (folder / "pictures" / "pairs.jsonl").unlink()
    ids = [f"i{number}" for number in NUMBERS]
    names = list(map(caption, NUMBERS))
    images = [f"img/{number}.png" for number in NUMBERS]
    corpora = [folder / "pictures" / "corpus.parquet", folder / "names" / "corpus.jsonl"]
    write_judged(folder / "pictures")
    write_judged(folder / "names")
    pq.write_table(pa.table({"_id": ids, "image": images}), corpora[0])
    write_rows(
        corpora[1], [{"_id": id_, "text": name} for id_, name in zip(ids, names, strict=True)]
    )
    views = {"image": ("clip", corpora[0]), "text": ("bert", corpora[1])}
    for view, (model, corpus) in views.items():
        call("index", folder / model, corpus, "-o", folder / "idx", "--view", view)
    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_judged(folder):
    (folder / "qrels").mkdir(parents=True)
    queries = [{"_id": f"q{number}", "text": caption(number)} for number in NUMBERS]
    write_rows(folder / "queries.jsonl", queries)
    images = {f"p{number}": encoded(drawing(number), "JPEG", quality=40) for number in PICTURES}
    table = pa.table({"_id": list(images), "image": list(images.values())})
    pq.write_table(table, folder / "queries.parquet")
    lines = [f"{kind}{number}\ti{number}\t1\n" for kind in "qp" for number in NUMBERS]
    used = [line for line in lines if line[0] == "q" or line.split("\t")[0] in images]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(used))


def best_documents(folder):
    """The document that is nearest to each picture, by the model itself."""
    encoder = read_image_text_encoder(str(folder / "clip"))
    images = [str(folder / "pictures" / "img" / f"{number}.png") for number in NUMBERS]
    queries = [encoded(drawing(number), "JPEG", quality=40) for number in PICTURES]
    places = [folder / f"{number}.jpg" for number in PICTURES]
    for place, content in zip(places, queries, strict=True):
        place.write_bytes(content)
    vectors = [
        encode(encoder, [str(path) for path in paths], "document").rows
        for paths in (places, images)
    ]
    return [f"i{row}" for row in (vectors[0] @ vectors[1].T).argmax(1)]


@pytest.mark.parametrize("system", ["clip", "index:idx/views/image"])
def test_picture_finds_what_the_model_finds_nearest(folder, monkeypatch, system):
    monkeypatch.chdir(folder)
    evaluation = nearfar.evaluate(system, "pictures").image_queries
    (result,) = evaluation.systems
    assert evaluation.set_name == "pictures test, images"
    assert result.query_ids == tuple(f"p{number}" for number in PICTURES)
    first = [result.top[query][0][0] for query in result.query_ids]
    assert first == best_documents(folder)
    assert "image_to_text_recall@1" not in result.metrics, "which is of captions"


def test_systems_of_texts_are_measured_in_words_alone(folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = call(
        "evaluate", *VIEWS, "bm25", "--data", "names", "--out", "e.json", "--save-runs", "r"
    )
    assert "names test: 32 queries, 32 documents" in result.stdout
    assert "names test, images: 8 queries, 32 documents" in result.stdout
    written = read_evaluation(folder / "e.json")
    assert len(written.systems) == 3
    (by_image,) = written.image_queries.systems
    assert by_image.query_ids == tuple(f"p{number}" for number in PICTURES)
    summary = summary_of_evaluation(written)
    assert summary["test/images/index:idx/views/image/ndcg@10"] == by_image.mean("ndcg@10")
    runs = sorted(str(path.relative_to(folder / "r")) for path in (folder / "r").rglob("*.trec"))
    assert "images/qrels.trec" in runs
    (name,) = {path for path in runs if path.startswith("images/")} - {"images/qrels.trec"}
    assert read_run_file(folder / "r" / name).keys() == set(by_image.query_ids)


def test_two_systems_of_images_are_compared(folder, monkeypatch):
    monkeypatch.chdir(folder)
    evaluation = nearfar.evaluate(["clip", "index:idx/views/image"], "pictures").image_queries
    (comparison,) = evaluation.comparisons
    assert comparison.test.difference == pytest.approx(0, abs=1e-9), "the index is of this model"


def test_system_that_fails_in_words_is_not_tried_again(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    write_rows(folder / "pictures" / "one.jsonl", [{"_id": "i0", "image": "img/0.png"}])
    call("index", "clip", "pictures/one.jsonl", "-o", tmp_path / "one")
    with pytest.raises(SystemsFailed):
        call("evaluate", "clip", f"index:{tmp_path}/one", "--data", "pictures", "--out", "f.json")
    written = read_evaluation(folder / "f.json")
    assert [failure.system for failure in written.failures] == [f"index:{tmp_path}/one"]
    assert [system.name for system in written.image_queries.systems] == ["clip"]
