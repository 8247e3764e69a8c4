"""An index of images, searched by captions and by images, alone and beside a view of texts."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from image_toys import caption, drawing, encoded, write_image_set
from late_interaction_toys import new_encoder
from toy_models import make_image_text_toy
from verbs import command_caller

import nearfar
from trainer.cli.evaluate import evaluate
from trainer.cli.index import add, delete, index
from trainer.cli.search import search
from trainer.errors import BadData, BadFolder, BadModel, BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.images.reference import read_query_image
from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.formats.folder import save_encoder
from trainer.models.towers import image_text
from trainer.models.towers.image_text import read_image_text_encoder
from trainer.retrieval.encoding.encode import encode
from trainer.retrieval.fusion import fuse_ranks
from trainer.retrieval.indexes.dense import DenseIndex
from trainer.retrieval.indexes.searcher import Searcher

call = command_caller(evaluate, index, search, must_succeed=True)
NUMBERS = range(20)
QUESTION = "a red disk"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_folder):
    """A model of images, one of texts, and the same images as files, in a table and as judged ones.

    The folder of views has one of images and one of their captions.
    """
    folder = tmp_path_factory.mktemp("images")
    make_image_text_toy("clip", folder / "clip")
    (folder / "bert").symlink_to(toy_folder("bert"))
    write_image_set(folder, NUMBERS)
    ids = [f"i{number}" for number in NUMBERS]
    judged = folder / "judged"
    (judged / "qrels").mkdir(parents=True)
    contents = [encoded(drawing(number)) for number in NUMBERS]
    pq.write_table(pa.table({"_id": ids, "image": contents}), judged / "corpus.parquet")
    texts = [{"_id": f"q{number}", "text": caption(number)} for number in NUMBERS]
    (judged / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    judgements = "".join(f"q{number}\ti{number}\t1\n" for number in NUMBERS)
    (judged / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judgements}")
    names = [{"_id": f"i{number}", "text": caption(number)} for number in NUMBERS]
    (folder / "names.jsonl").write_text("".join(json.dumps(row) + "\n" for row in names))
    call("index", folder / "clip", folder / "pairs.jsonl", "-o", folder / "idx")
    call("index", folder / "clip", judged, "-o", folder / "views", "--view", "image")
    call("index", folder / "bert", folder / "names.jsonl", "-o", folder / "views", "--view", "text")
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return read_image_text_encoder(str(folder / "clip"))


def ranking(place, *options):
    page = call("search", place, "-k", len(NUMBERS), "--json", *options).stdout
    return {hit["id"]: hit["score"] for hit in json.loads(page)}


def exact_scores(encoder, folder, questions, role):
    """The scores of all images, by vectors that no index has stored."""
    references = [str(folder / "img" / f"{number}.png") for number in NUMBERS]
    images = encode(encoder, references, "document").rows
    return encode(encoder, questions, role).rows @ images.T


@pytest.mark.parametrize("place", ["idx", "views/views/image"])
def test_caption_finds_images_with_their_exact_scores(folder, encoder, place):
    (scores,) = exact_scores(encoder, folder, [QUESTION], "query")
    names = "img/{}.png" if place == "idx" else "i{}"
    expected_scores = {names.format(number): scores[number] for number in NUMBERS}
    hits = ranking(folder / place, QUESTION)
    assert hits == pytest.approx(expected_scores, abs=2e-6)
    assert list(hits.values()) == sorted(hits.values(), reverse=True)
    assert len(set(hits.values())) == len(NUMBERS), "the toy tells all images apart"


def test_every_image_finds_itself_first_with_its_exact_scores(folder, encoder):
    paths = [folder / "img" / f"{number}.png" for number in NUMBERS]
    exact = exact_scores(encoder, folder, list(map(read_query_image, paths)), "document")
    searcher = Searcher.open(folder / "idx", by_image=True)
    for number, path in enumerate(paths):
        first, *others = searcher.search_by_image(read_query_image(path), len(NUMBERS))
        assert first.document.id == f"img/{number}.png"
        assert first.score == pytest.approx(1, abs=1e-5)
        scores = [hit.score for hit in (first, *others)]
        assert scores == pytest.approx(sorted(exact[number], reverse=True), abs=2e-6)
    assert next(iter(ranking(folder / "idx", "--image", paths[7]))) == "img/7.png"


def test_model_is_compared_with_its_index_once(folder, monkeypatch):
    """Two texts are encoded for it, which takes longer than a search."""
    fit_encoder, compared_encoders = DenseIndex.fit_encoder, []

    def count_comparisons(self, encoder):
        compared_encoders.append(encoder)
        return fit_encoder(self, encoder)

    monkeypatch.setattr(DenseIndex, "fit_encoder", count_comparisons)
    searcher = Searcher.open(folder / "idx")
    assert searcher.search([QUESTION]) == searcher.search([QUESTION])
    assert len(compared_encoders) == 1


def test_hits_show_caption_and_path_and_no_bytes(folder):
    lines = call("search", folder / "idx", QUESTION, "-k", 1).stdout.splitlines()
    number = lines[0].split("img/")[1].partition(".")[0]
    assert caption(int(number)) in lines[0]
    assert lines[1].strip().endswith(f"/img/{number}.png")
    view = folder / "views" / "views" / "image"
    assert json.loads((view / "documents.jsonl").read_text().splitlines()[3]) == {
        "id": "i3", "title": "", "text": "",
    }  # fmt: skip
    assert not list(view.glob(".*"))


def test_path_of_an_image_is_printed_whole(folder, tmp_path):
    place = tmp_path / ("long-" * 30)
    place.mkdir()
    shutil.copy(folder / "img" / "3.png", place / "3.png")
    call("index", folder / "clip", place, "-o", tmp_path / "idx")
    assert f"{place}/3.png" in call("search", tmp_path / "idx", QUESTION).stdout.split()


def test_vectors_do_not_depend_on_how_many_images_are_decoded_ahead(folder, encoder, monkeypatch):
    references = [str(folder / "img" / f"{number}.png") for number in NUMBERS]
    vectors = encode(encoder, references, "document").rows
    image_size = encoder.contract.image_size
    monkeypatch.setattr(image_text, "_SLICE_BYTES", 3 * 3 * image_size**2)
    assert encoder.texts_per_slice("document") == 3
    np.testing.assert_allclose(encode(encoder, references, "document").rows, vectors, atol=1e-6)
    assert encoder.texts_per_slice("query") > 1000


def test_approximate_index_finds_the_image_itself(folder, tmp_path):
    options = ("-o", tmp_path / "idx", "--kind", "hnsw")
    output = call("index", folder / "clip", folder / "img", *options).stdout
    assert "20 images, hnsw" in output
    assert next(iter(ranking(tmp_path / "idx", "--image", folder / "img/3.png"))) == "3.png"


def test_evaluation_by_an_exact_index_equals_exact_search(folder, tmp_path):
    judged, place = folder / "judged", folder / "views" / "views" / "image"
    options = ("--data", judged, "--precision", "fp32", "--out")
    call("evaluate", folder / "clip", "--index", place, *options, tmp_path / "a.json")
    exact, indexed = read_evaluation(tmp_path / "a.json").systems
    call("evaluate", f"index:{place}", *options, tmp_path / "b.json")
    (alone,) = read_evaluation(tmp_path / "b.json").systems
    assert "image_to_text_ndcg@10" in exact.metrics
    for system in (indexed, alone):
        assert system.query_ids == exact.query_ids
        for metric, values in exact.metrics.items():
            assert system.metrics[metric].tolist() == values.tolist(), metric


def test_evaluation_refuses_other_images_and_systems_without_images(folder):
    judged, place = folder / "judged", folder / "views" / "views" / "image"
    with pytest.raises(BadData, match="that is not in judged"):
        call("evaluate", f"index:{folder / 'idx'}", "--data", judged)
    for system in (f"index:{folder / 'views'}", f"hybrid:index:{place}+bm25"):
        with pytest.raises(BadRecipe, match="cannot search images"):
            call("evaluate", f"index:{place}", system, "--data", judged)


def test_view_of_images_is_measured_with_words_on_texts_of_the_same_ids(folder, tmp_path):
    texts = tmp_path / "texts"
    (texts / "qrels").mkdir(parents=True)
    (texts / "corpus.jsonl").write_bytes((folder / "names.jsonl").read_bytes())
    for name in ("queries.jsonl", "qrels/test.tsv"):
        (texts / name).write_bytes((folder / "judged" / name).read_bytes())
    place = folder / "views" / "views" / "image"
    options = ("--data", texts, "--precision", "fp32", "--out", tmp_path / "e.json")
    call("evaluate", f"index:{place}", f"hybrid:index:{place}+bm25", *options)
    systems = {system.name: system for system in read_evaluation(tmp_path / "e.json").systems}
    assert len(systems) == 3
    fusion = next(name for name in systems if name.startswith("hybrid"))
    assert systems[f"index:{place}"].mean("ndcg@10") < systems[fusion].mean("ndcg@10")


def test_views_of_images_and_texts_are_fused_by_ids(folder):
    runs = [{"": ranking(folder / "views", "--view", name, QUESTION)} for name in ("image", "text")]
    hybrid = json.loads(call("search", folder / "views", QUESTION, "--hybrid", "--json").stdout)
    scores = {hit["id"]: hit["score"] for hit in hybrid}
    assert scores == pytest.approx(fuse_ranks(runs, 5)[""], abs=1e-6)
    assert all(hit["text"] == caption(int(hit["id"][1:])) for hit in hybrid), "of the other view"
    first = next(
        iter(ranking(folder / "views", QUESTION, "--hybrid", "--weights", "image=0.01,bm25=1"))
    )
    assert "red disk" in caption(int(first[1:])), "by the words of the other view"


def test_image_as_question_asks_the_view_of_images(folder):
    photo = folder / "img" / "5.png"
    by_name = ranking(folder / "views", "--image", photo, "--view", "image")
    assert next(iter(by_name)) == "i5"
    assert ranking(folder / "views", "--image", photo) == by_name
    result = call("search", folder / "views", "--image", photo, "--hybrid", "--json", "-k", 20)
    assert {hit["id"]: hit["score"] for hit in json.loads(result.stdout)} == by_name
    assert "compared with views of images alone: image" in result.stderr


def test_hits_of_one_view_have_the_texts_and_images_of_the_others(folder, tmp_path):
    """Also after a change, for which a late-interaction index alone would keep its rows."""
    torch.manual_seed(7)
    save_encoder(new_encoder(folder / "bert"), tmp_path / "late")
    write_image_set(tmp_path, NUMBERS)
    images = [{"_id": f"i{number}", "image": f"img/{number}.png"} for number in NUMBERS]
    (tmp_path / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in images))
    views = tmp_path / "views"
    call("index", folder / "clip", tmp_path / "images.jsonl", "-o", views, "--view", "image")
    call("index", tmp_path / "late", folder / "names.jsonl", "-o", views, "--view", "text")
    command_caller(index, delete, must_succeed=True)("delete", views, "i17", "i2", "i3")
    for options in ((QUESTION, "--view", "text"), ("--image", folder / "img" / "5.png"),
                    (QUESTION, "--hybrid", "--weights", "bm25=1,image=1")):  # fmt: skip
        hits = json.loads(call("search", views, "--json", "-k", 20, *options).stdout)
        assert len(hits) == 17
        for hit in hits:
            assert hit["text"] == caption(int(hit["id"][1:]))
            assert hit["image"] == str(tmp_path / "img" / f"{hit['id'][1:]}.png")
    shutil.copytree(views / "views" / "image", views / "views" / "image2")
    for view in ("image", "image2"):
        (views / "views" / view / "vectors.npy").unlink()
    result = call("search", views, QUESTION, "--view", "text", "--json")
    for view in ("image", "image2"):
        assert f"hits lack what the view {view} knows" in " ".join(result.stderr.split())
    assert "image" not in json.loads(result.stdout)[0]


def test_view_with_other_ids_or_images_is_refused(folder, tmp_path):
    rows = (folder / "names.jsonl").read_text().splitlines()
    (tmp_path / "less.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(BadData, match="it has only 19 documents, and that one has more"):
        call("index", folder / "bert", tmp_path / "less.jsonl", "-o", folder / "views",
             "--view", "less")  # fmt: skip
    with pytest.raises(BadData, match=r"document 1 is 'img/0.png' here, and 'i0' there"):
        call("index", folder / "clip", folder / "pairs.jsonl", "-o", folder / "views",
             "--view", "paths")  # fmt: skip
    views = tmp_path / "views"
    call("index", folder / "clip", folder / "img", "-o", views, "--view", "one")
    write_image_set(tmp_path, NUMBERS)
    with pytest.raises(BadData, match="has another image, title or text there"):
        call("index", folder / "clip", tmp_path / "img", "-o", views, "--view", "two")
    call("index", folder / "bert", tmp_path / "less.jsonl", "-o", views / "views" / "text")
    with pytest.raises(BadFolder, match="different documents .*one: 20, text: 19"):
        call("search", views, QUESTION, "--hybrid")


def test_several_views_of_images_are_chosen_or_fused(folder, tmp_path):
    for name in ("one", "two"):
        call("index", folder / "clip", folder / "img", "-o", tmp_path / "idx", "--view", name)
    photo = folder / "img" / "5.png"
    with pytest.raises(BadRecipe, match="several views of images: one, two; choose one"):
        call("search", tmp_path / "idx", "--image", photo)
    assert next(iter(ranking(tmp_path / "idx", "--image", photo, "--hybrid"))) == "5.png"


@pytest.mark.parametrize(
    ("place", "options", "error", "message"),
    [
        ("views/views/text", (), BadModel, "holds no images.*text by .*bert"),
        ("views", ("--view", "text"), BadModel, "text holds no images; --view image does"),
        ("idx", ("--rerank", "x"), BadRecipe, "alone; leave --rerank out"),
        ("views", ("--hybrid", "--weights", "image=1"), BadRecipe, "leave --weights out"),
        ("idx", ("--explain",), BadModel, "shows no words"),
    ],
)
def test_image_that_cannot_be_the_question_is_refused(folder, place, options, error, message):
    with pytest.raises(error, match=message) as refusal:
        call("search", folder / place, "--image", folder / "img" / "1.png", *options)
    assert refusal.value.exit_code == 2


def test_path_of_an_image_as_question_is_refused_with_a_hint(folder):
    path = folder / "img" / "1.png"
    with pytest.raises(BadData, match=f"write --image {path}"):
        call("search", folder / "idx", path)
    assert ranking(folder / "idx", "none.png"), "a text that names no file"
    caller = command_caller(index, search)
    for words in ((), (QUESTION, "--image", path)):
        result = caller("search", folder / "idx", *words)
        assert (result.exit_code, "one of the two" in result.output) == (2, True)


def test_cross_encoder_reorders_images_by_their_captions(folder, tmp_path):
    torch.manual_seed(7)
    settings = CrossEncoderSettings(backbone=str(folder / "bert"))
    save_encoder(build_cross_encoder(settings), tmp_path / "cross")
    options = ("--rerank", tmp_path / "cross", "--json", "-k", 20)
    hits = json.loads(call("search", folder / "idx", QUESTION, *options).stdout)
    assert sorted(hit["first_rank"] for hit in hits) == list(range(1, 21))
    assert [hit["first_rank"] for hit in hits] != list(range(1, 21))
    with pytest.raises(BadData, match="found an image without a title or a caption"):
        call("search", folder / "views" / "views" / "image", QUESTION, *options)


def test_words_need_titles_or_captions(folder):
    call("index", folder / "clip", folder / "judged", "-o", folder / "alone", "--view", "image")
    with pytest.raises(BadData, match="no image of .* has a title or a caption"):
        call("search", folder / "alone", QUESTION, "--hybrid", "--weights", "image=1,bm25=1")


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_model_with_another_tower_is_not_that_of_the_index(folder, tmp_path, tower):
    changed_encoder = read_image_text_encoder(str(folder / "clip"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in changed_encoder.backbone.named_parameters():
            if name.startswith(tower):
                weight.add_(torch.randn_like(weight) * 0.2)
    save_encoder(changed_encoder, tmp_path / "other")
    for model in (tmp_path / "other", folder / "bert"):
        with pytest.raises(
            BadModel, match="but the model encodes texts|other vectors than the model"
        ):
            call("search", folder / "idx", QUESTION, "--model", model)


@pytest.mark.parametrize("option", ["--layers", "--dimensions"])
def test_model_of_images_is_not_cut(folder, tmp_path, option):
    with pytest.raises(BadRecipe, match="a model of images is not cut"):
        call("index", folder / "clip", folder / "img", "-o", tmp_path / "idx", option, 1)


def test_images_that_are_left_out_are_counted(folder, tmp_path):
    write_image_set(tmp_path, range(3))
    (tmp_path / "img" / "1.png").write_bytes(b"no image")
    (tmp_path / "img" / "notes.txt").write_text("x")
    options = ("-o", tmp_path / "idx", "--max-bad-rows-ratio", "0.5")
    result = call("index", folder / "clip", tmp_path / "img", *options)
    assert "2 images" in result.stdout
    assert "left out: 1 not an image\n" in result.stderr
    assert "left out: 1 files that are hidden or no images by name" in result.stderr


def test_images_are_indexed_and_searched_in_python(folder, tmp_path):
    summary = nearfar.index(folder / "clip", folder / "img", tmp_path / "idx")
    assert repr(summary).endswith("20 images, flat, 24 dimensions")
    path = folder / "img" / "5.png"
    for image in (path, str(path), path.read_bytes()):
        result = nearfar.search(tmp_path / "idx", image=image, k=3)
        assert next(hit.document.id for hit in result) == "5.png"
        assert len(result) == 3
        assert "/img/5.png" in repr(result)
    assert len(nearfar.search(tmp_path / "idx", QUESTION)) == 10
    for words in ({}, {"questions": QUESTION, "image": path}):
        with pytest.raises(TypeError, match="one of the two"):
            nearfar.search(tmp_path / "idx", **words)


def test_images_are_added_and_deleted_like_texts(folder, encoder, tmp_path):
    change = command_caller(add, delete, must_succeed=True)
    call("index", folder / "clip", folder / "judged", "-o", tmp_path / "idx", "--view", "image")
    call("index", folder / "bert", folder / "names.jsonl", "-o", tmp_path / "idx", "--view", "text")
    write_image_set(tmp_path, [20])
    row = {"_id": "i20", "image": "img/20.png", "text": caption(20)}
    (tmp_path / "more.jsonl").write_text(json.dumps(row) + "\n")
    change("add", tmp_path / "idx", tmp_path / "more.jsonl")
    change("delete", tmp_path / "idx", "i3")
    view = tmp_path / "idx" / "views" / "image"
    hits = json.loads(
        call("search", view, "--image", tmp_path / "img/20.png", "-k", 30, "--json").stdout
    )
    assert (hits[0]["id"], hits[0]["image"]) == ("i20", f"{tmp_path}/img/20.png")
    (scores,) = exact_scores(encoder, folder, [str(tmp_path / "img/20.png")], "document")
    assert {hit["id"]: hit["score"] for hit in hits[1:]} == pytest.approx(
        {f"i{number}": scores[number] for number in NUMBERS if number != 3}, abs=2e-6
    )
    assert "i20" in ranking(tmp_path / "idx", caption(20), "--hybrid")
    call("index", folder / "clip", folder / "judged", "-o", tmp_path / "alone")
    pq.write_table(
        pa.table({"_id": ["i21"], "image": [encoded(drawing(21))]}), tmp_path / "more.parquet"
    )
    change("add", tmp_path / "alone", tmp_path / "more.parquet")
    lines = (tmp_path / "alone" / "documents.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == {"id": "i21", "title": "", "text": ""}, "without the bytes"
