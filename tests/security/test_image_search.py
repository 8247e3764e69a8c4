"""Indexes of images that attack: files of pictures, images as questions, and index folders."""

import json
import os
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_toys import drawing, encoded
from toy_models import make_image_text_toy
from verbs import change_manifest, command_caller

from trainer.cli.index import index
from trainer.cli.search import search
from trainer.data.retrieval_set import read_retrieval_set
from trainer.errors import BadData, BadFolder, BadModel, TooManyBadRows
from trainer.images.decode import MOST_BYTES

call = command_caller(index, search, must_succeed=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "clip"
    make_image_text_toy("clip", folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """A folder of three good pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        drawing(number).save(folder / f"{number}.png")
    return folder


def huge_png():
    """A PNG of few bytes that says that it has 10^10 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


HOSTILE = {
    "huge": huge_png,
    "truncated": lambda: encoded(drawing(0))[:70],
    "long": lambda: encoded(drawing(0).resize((2000, 10))),
    "script": lambda: b"#!/bin/sh\nrm -rf /",
    "empty": lambda: b"",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    "large": lambda: encoded(drawing(0)) + bytes(MOST_BYTES),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file_is_set_aside_in_a_corpus_and_refused_as_question(model, pictures, kind):
    (pictures / "a.png").write_bytes(HOSTILE[kind]())
    place = pictures.parent / "idx"
    result = call("index", model, pictures, "-o", place, "--max-bad-rows-ratio", "0.25")
    assert "3 images" in result.stdout
    assert result.stderr.count("left out: 1 ") == 1
    with pytest.raises(BadData, match=r"a\.png cannot be searched for: ") as refusal:
        call("search", place, "--image", pictures / "a.png")
    assert refusal.value.exit_code == 2


def judged_pictures(pictures, rows):
    """A BEIR folder whose only judged queries are one in words, and these in queries.parquet."""
    folder = pictures.parent / "judged"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d", "text": "a red disk"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a disk"}\n')
    pq.write_table(pa.Table.from_pylist(rows), folder / "queries.parquet")
    judgements = "".join(f"{name}\td\t1\n" for name in ("q", *(row["_id"] for row in rows)))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judgements}")
    return folder


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_query_of_judged_data_is_refused(pictures, kind):
    good_row = {"_id": "good", "image": encoded(drawing(1))}
    folder = judged_pictures(pictures, [good_row, {"_id": "p", "image": HOSTILE[kind]()}])
    with pytest.raises(TooManyBadRows, match="1 of 7 rows could not be used"):
        read_retrieval_set(str(folder))
    images = read_retrieval_set(str(folder), max_bad_rows_ratio=0.5).image_queries
    assert images.query_ids == ("good",), "and no judgement is left of the other"


def test_hostile_query_excuses_no_judgement_of_a_document_that_is_missing(pictures):
    rows = [{"_id": "good", "image": encoded(drawing(1))}, {"_id": "p", "image": b"no image"}]
    qrels = judged_pictures(pictures, rows) / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "good\tnowhere\t1\n")
    with pytest.raises(BadData, match="1 ids that are not in corpus.jsonl: 'nowhere'"):
        read_retrieval_set(str(qrels.parent.parent), max_bad_rows_ratio=0.5)


@pytest.mark.parametrize(
    "path",
    ["../pictures/0.png", "out.png", "http://127.0.0.1:9/x.png", "data:;base64,R0lG", "/0.png"],
)
def test_path_of_a_judged_query_does_not_leave_its_folder(pictures, path):
    folder = judged_pictures(pictures, [{"_id": "p", "image": path}])
    (folder / "out.png").symlink_to(pictures / "0.png")
    with pytest.raises(TooManyBadRows, match="URL|leads out of the data folder"):
        read_retrieval_set(str(folder))
    (pictures / "0.png").rename(folder / "own.png")
    pq.write_table(pa.table({"_id": ["p"], "image": ["own.png"]}), folder / "queries.parquet")
    (reference,) = read_retrieval_set(str(folder)).image_queries.queries
    assert reference == str(folder / "own.png")


def test_table_of_queries_is_no_link_out_of_its_folder(pictures):
    folder = judged_pictures(pictures, [{"_id": "p", "image": encoded(drawing(0))}])
    (folder / "queries.parquet").rename(pictures.parent / "else.parquet")
    (folder / "queries.parquet").symlink_to(pictures.parent / "else.parquet")
    with pytest.raises(BadData, match="is a link that leads out of"):
        read_retrieval_set(str(folder))


def test_text_that_looks_like_a_reference_stays_a_text(pictures):
    folder = judged_pictures(pictures, [{"_id": "p", "image": encoded(drawing(0))}])
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "data:;base64,R0lG"}\n')
    judged_set = read_retrieval_set(str(folder))
    assert judged_set.queries == ("data:;base64,R0lG",)
    assert judged_set.image_queries.query_ids == ("p",)


def test_question_that_is_no_file_is_refused(model, pictures):
    place = pictures.parent / "idx"
    call("index", model, pictures, "-o", place)
    os.mkfifo(pictures.parent / "pipe.png")
    for name in ("none.png", "pipe.png", "pictures", "x" * 5000):
        with pytest.raises(
            BadData, match="image (is a folder|file does not exist|file cannot be read)"
        ):
            call("search", place, "--image", f"{pictures.parent}/{name}")
    for name in ("data:;base64,R0lG", "http://127.0.0.1:9/x.png", "-"):
        with pytest.raises(BadData, match="image file does not exist"):
            call("search", place, "--image", name)
    call("search", place, "x" * 5000 + ".png")  # a text


def test_links_and_pipes_in_a_folder_of_pictures_are_not_followed(model, pictures):
    secret = pictures.parent / "secret"
    secret.mkdir()
    drawing(5).save(secret / "s.png")
    (pictures / "out").symlink_to(secret)
    (pictures / "up").symlink_to("..")
    (pictures / "s.png").symlink_to(secret / "s.png")
    os.mkfifo(pictures / "pipe.png")
    options = ("-o", pictures.parent / "idx", "--max-bad-rows-ratio", "0.5")
    result = call("index", model, pictures, *options)
    assert "3 images" in result.stdout
    assert "left out: 1 image path is a link that leads out of the data folder" in result.stderr
    assert "left out: 1 image file does not exist" in result.stderr
    assert "left out: 2 files" in result.stderr


def test_names_and_captions_are_escaped_when_they_are_printed(model, pictures):
    (pictures / "0.png").rename(pictures / "\x1b[31mred.png")
    (pictures / "1.png").rename(pictures / "\udcff.png")
    rows = [{"image": "2.png", "caption": "\x1b]0;gone\x07 \u202ebackwards"}]
    (pictures / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("-o", pictures.parent / "idx", "--max-bad-rows-ratio", "0.5")
    result = call("index", model, pictures, *options)
    assert "left out: 1 half a surrogate pair" in result.stderr
    call("index", model, pictures / "rows.jsonl", "-o", pictures.parent / "rows")
    for place in ("idx", "rows"):
        for option in ((), ("--json",)):
            page = call("search", pictures.parent / place, "a disk", *option).stdout
            assert not {"\x1b", "\x07", "\u202e"} & set(page)
    assert r"\x1b[31mred.png" in call("search", pictures.parent / "idx", "a disk").stdout


def test_index_that_lies_about_its_images_is_refused(model, pictures, toy_folder):
    place, texts = pictures.parent / "idx", pictures.parent / "texts"
    call("index", model, pictures, "-o", place)
    (pictures.parent / "corpus.txt").write_text("delete a disk\n")
    call("index", toy_folder("bert"), pictures.parent / "corpus.txt", "-o", texts)
    change_manifest(texts, has_images=True)
    with pytest.raises(BadModel, match="texts holds images, but the model encodes texts"):
        call("search", texts, "--image", pictures / "0.png")
    change_manifest(place, has_images="yes")
    with pytest.raises(BadFolder, match="damaged"):
        call("search", place, "a disk")


def test_path_in_an_index_of_others_is_not_opened(model, pictures):
    place = pictures.parent / "idx"
    call("index", model, pictures, "-o", place)
    lines = [json.loads(line) for line in (place / "documents.jsonl").read_text().splitlines()]
    assert {line["image"] for line in lines} == {f"{pictures}/{number}.png" for number in range(3)}
    for path in pictures.iterdir():
        path.unlink()
        os.mkfifo(path)
    assert "0.png" in call("search", place, "a disk").stdout
