"""Images to search: the rows of a table, a folder with a corpus, and a folder of image files."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_toys import drawing, encoded, write_image_set

from trainer.data.readers.corpus import Document
from trainer.data.readers.image_corpus import read_image_corpus
from trainer.data.readers.report import ReadReport
from trainer.errors import BadData, TooManyBadRows
from trainer.images.reference import reference_to_bytes


def read(path, ratio=0.0):
    report = ReadReport(str(path))
    return list(read_image_corpus(path, report, ratio)), report


def test_rows_of_paths_have_the_path_as_id_and_keep_their_captions(tmp_path, monkeypatch):
    write_image_set(tmp_path, range(3))
    rows = [
        {"image": "img/0.png", "title": "One", "caption": "a red disk"},
        {"File_Name": "img/1.png", "captions": ["a green disk", "a circle"]},
        {"_id": 7, "image": "img/2.png"},
        {"image": "img/0.png", "caption": "the same image again"},
    ]
    path = tmp_path / "images.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    documents, report = read(path.relative_to(tmp_path))
    assert documents == [
        Document("img/0.png", "One", "a red disk", f"{tmp_path}/img/0.png"),
        Document("img/1.png", "", "a green disk / a circle", f"{tmp_path}/img/1.png"),
        Document("7", "", "", f"{tmp_path}/img/2.png"),
    ]
    assert (report.rows_read, report.rows_kept, report.duplicate_ids) == (4, 3, 1)


@pytest.mark.parametrize("place", ["corpus.parquet", "other.parquet"])
def test_parquet_holds_bytes_of_which_the_document_is_a_copy(tmp_path, place):
    contents = [encoded(drawing(number)) for number in range(3)]
    ids = ["a", "b", "c"]
    pq.write_table(pa.table({"_id": ids, "image": contents}), tmp_path / place)
    documents, _ = read(tmp_path if place == "corpus.parquet" else tmp_path / place)
    assert [document.id for document in documents] == ids
    assert [document.content for document in documents] == [*map(reference_to_bytes, contents)]
    assert documents[0].without_bytes() == Document("a", "", "")


def test_image_of_datasets_without_an_id_gets_the_number_of_its_row(tmp_path):
    images = [{"bytes": encoded(drawing(1)), "path": "1.png"}]
    pq.write_table(pa.table({"image": images}), tmp_path / "x.parquet")
    documents, _ = read(tmp_path / "x.parquet")
    assert [document.id for document in documents] == ["1"]


def test_folder_of_image_files_is_read_in_the_order_of_its_names(tmp_path):
    for name in ("b/2.JPG", "b/10.png", "a.webp", "c/d/1.bmp", "c/x.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG"}.get(name[-3:].lower(), name.rpartition(".")[2].upper())
        drawing(3).save(tmp_path / name, kind)
    for name in ("notes.txt", ".hidden.png", "scan.tif"):
        (tmp_path / name).write_text("no image")
    shutil.copytree(tmp_path / "b", tmp_path / ".cache")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    documents, report = read(tmp_path)
    names = ["a.webp", "b/10.png", "b/2.JPG", "c/x.gif", "c/d/1.bmp"]
    assert [document.id for document in documents] == names
    assert [document.image for document in documents] == [f"{tmp_path}/{name}" for name in names]
    assert report.other_files == 5


def test_bad_rows_are_set_aside_with_their_reasons(tmp_path):
    path = write_image_set(tmp_path, range(4))
    (tmp_path / "img" / "0.png").write_bytes(b"no image")
    (tmp_path / "img" / "1.png").write_bytes(encoded(drawing(1))[:60])
    bad_rows = [
        {"image": "img/none.png"},
        {"caption": "no image at all"},
        {"image": "img/3.png", "caption": 5},
        {"_id": ["x"], "image": "img/3.png"},
        {"_id": "a\0", "image": "img/3.png"},
    ]
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in bad_rows) + "{\n")
    with pytest.raises(TooManyBadRows, match="8 of 10 rows could not be used") as refusal:
        read(path)
    assert "image file does not exist (img/none.png)" in str(refusal.value)
    (tmp_path / "other.jsonl").write_text('{"picture": "img/3.png"}\n')
    with pytest.raises(TooManyBadRows, match=r"the image is missing \(its fields: 'picture'\)"):
        read(tmp_path / "other.jsonl")
    documents, report = read(path, ratio=0.8)
    assert [document.id for document in documents] == ["img/2.png", "img/3.png"]
    assert sum(report.bad.values()) == 8
    for reason in ("not an image", "image cannot be decoded", "image file does not exist",
                   "the image is missing", "the id, title or caption is a int, expected a text",
                   "the id, title or caption is a list, expected a text",
                   "NUL character in the id, title or caption"):  # fmt: skip
        assert report.bad[reason] == 1


def test_source_without_images_says_what_is_accepted(tmp_path):
    (tmp_path / "x.txt").write_text("a text\n")
    with pytest.raises(BadData, match="no collection of images; give a folder of image files"):
        read(tmp_path / "x.txt")
    with pytest.raises(BadData, match="no image that can be read"):
        read(tmp_path)
    with pytest.raises(BadData, match=r"none\.jsonl does not exist"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(BadData, match="none does not exist; check the path"):
        read(tmp_path / "none")
