"""Pairs of captions and images are read from JSON Lines, CSV, Parquet and folders of judgements."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_toys import caption, drawing, encoded, write_image_set

from trainer.data.readers.read import read_rows
from trainer.data.retrieval_set import read_retrieval_set
from trainer.errors import BadData
from trainer.images.decode import decode
from trainer.images.reference import read_image_bytes


def pairs_of(source, **options):
    """Captions with the images that their references name."""
    rows = read_rows(str(source), has_images=True, **options)
    return [(row.query, decode(read_image_bytes(row.positive)).tobytes()) for row in rows]


EXPECTED = [(caption(number), drawing(number).tobytes()) for number in range(3)]


def test_json_lines_with_paths_are_read(tmp_path):
    assert pairs_of(write_image_set(tmp_path, range(3))) == EXPECTED


def test_csv_with_paths_is_read(tmp_path):
    write_image_set(tmp_path, range(3))
    lines = [f"img/{number}.png,{caption(number)}" for number in range(3)]
    (tmp_path / "pairs.csv").write_text("\n".join(["file_name,Text", *lines]))
    assert pairs_of(tmp_path / "pairs.csv") == EXPECTED


@pytest.mark.parametrize("form", ["bytes", "mapping"])
def test_parquet_with_bytes_is_read(tmp_path, form):
    images = [encoded(drawing(number)) for number in range(3)]
    values = images if form == "bytes" else [{"bytes": image, "path": None} for image in images]
    table = pa.table({"image": values, "caption": [caption(number) for number in range(3)]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    assert pairs_of(tmp_path / "pairs.parquet") == EXPECTED


def test_columns_can_be_named(tmp_path):
    write_image_set(tmp_path, [0])
    line = {"picture": "img/0.png", "says": caption(0), "caption": "not this one"}
    (tmp_path / "other.jsonl").write_text(json.dumps(line))
    columns = {"image": "picture", "caption": "says"}
    assert pairs_of(tmp_path / "other.jsonl", columns=columns) == EXPECTED[:1]


def test_several_captions_of_an_image_are_several_rows(tmp_path):
    write_image_set(tmp_path, [0])
    line = {"image": "img/0.png", "captions": ["one", "two", " ", "one"]}
    (tmp_path / "many.jsonl").write_text(json.dumps(line))
    rows = read_rows(str(tmp_path / "many.jsonl"), has_images=True)
    assert [row.query for row in rows] == ["one", "two"]
    assert len({row.positive for row in rows}) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"caption": "no image"}, "the image is missing"),
        ({"image": None, "caption": "no image"}, "the image is missing"),
        ({"image": "img/7.png", "caption": "no file"}, "image file does not exist"),
        ({"image": 7, "caption": "a number"}, "the image is a int"),
        ({"image": "img/0.png", "caption": 7}, "the caption is a int, expected a text"),
        ({"image": "img/0.png", "caption": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_bad_row_is_set_aside_with_its_reason(tmp_path, line, reason):
    path = write_image_set(tmp_path, [0])
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    bad = []
    read_rows(str(path), max_bad_rows_ratio=1.0, on_bad=bad.append, has_images=True)
    assert [row.source for row in bad] == ["pairs.jsonl:2"]
    assert bad[0].reason.startswith(reason)


def test_image_without_a_caption_is_a_blank_row(tmp_path):
    path = write_image_set(tmp_path, [0])
    with path.open("a") as file:
        file.write(json.dumps({"image": "img/0.png", "caption": " "}) + "\n")
    assert read_rows(str(path), has_images=True).report.blank_rows_dropped == 1


def test_file_of_texts_is_refused_with_its_columns(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"query": "a", "positive": "b"}))
    with pytest.raises(BadData, match=r"no column '' for the image; it has 'query', 'positive'"):
        read_rows(str(path), has_images=True)


@pytest.fixture
def judged_folder(tmp_path):
    numbers = range(5)
    (tmp_path / "qrels").mkdir()
    images = [encoded(drawing(number)) for number in numbers]
    pq.write_table(
        pa.table({"_id": [f"i{number}" for number in numbers], "image": images}),
        tmp_path / "corpus.parquet",
    )
    pq.write_table(
        pa.table({"image": images[:2], "caption": ["a", "b"]}), tmp_path / "train.parquet"
    )
    queries = [{"_id": f"c{number}", "text": caption(number)} for number in numbers]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    lines = ["query-id\tcorpus-id\tscore", "c2\ti2\t1", "c3\ti3\t1"]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(lines))
    return tmp_path


def test_folder_of_judgements_gives_all_images_as_documents(judged_folder):
    judged_set = read_retrieval_set(str(judged_folder), "test", has_images=True)
    assert judged_set.queries == (caption(2), caption(3))
    assert judged_set.document_ids == ("i0", "i1", "i2", "i3", "i4")
    assert judged_set.qrels == {"c2": {"i2": 1}, "c3": {"i3": 1}}
    assert judged_set.has_images
    assert not judged_set.limitation
    assert decode(read_image_bytes(judged_set.documents[2])).tobytes() == drawing(2).tobytes()


def test_training_pairs_of_a_folder_are_in_its_training_file(judged_folder):
    assert [row.query for row in read_rows(str(judged_folder), has_images=True)] == ["a", "b"]
    test_rows = read_rows(str(judged_folder), split="test", has_images=True)
    assert [row.query for row in test_rows] == [caption(2), caption(3)]
