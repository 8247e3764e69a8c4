import gzip

import pyarrow as pa
import pyarrow.parquet
import pytest

from trainer.data.readers.corpus import Document, read_corpus
from trainer.data.readers.report import ReadReport
from trainer.errors import BadData, TooManyBadRows


def read(path, ratio=0.001, id_prefix=""):
    report = ReadReport(str(path))
    return list(read_corpus(path, report, ratio, id_prefix)), report


def test_beir_files_and_folders_are_read(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "a", "title": "Disks", "text": "Delete one."}\n{"_id": 7, "title": "", "text": "No'
        ' title."}\n'
    )
    found, report = read(tmp_path / "corpus.jsonl")
    assert found == [Document("a", "Disks", "Delete one."), Document("7", "", "No title.")]
    assert [document.full_text for document in found] == ["Disks Delete one.", "No title."]
    assert read(tmp_path)[0] == found
    assert report.rows_kept == 2


@pytest.mark.parametrize("field", ["text", "document", "positive"])
def test_json_lines_without_ids_get_line_numbers(tmp_path, field):
    (tmp_path / "x.jsonl").write_text(f'{{"{field}": "one"}}\n\n{{"{field}": "two", "other": 3}}\n')
    assert read(tmp_path / "x.jsonl")[0] == [Document("1", "", "one"), Document("3", "", "two")]


def test_plain_text_has_one_document_per_line_even_compressed(tmp_path):
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress("\ufeffone\r\n\ntwo é".encode()))
    found, report = read(tmp_path / "x.txt.gz")
    assert found == [Document("1", "", "one"), Document("3", "", "two é")]
    assert report.blank_rows_dropped == 1


def test_tables_have_one_document_per_row(tmp_path):
    table = pa.table({"_id": ["a", "b"], "title": ["Disks", None], "text": ["Delete one.", "two"]})
    pa.parquet.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text('_id,title,text\na,Disks,Delete one.\nb,,"two"\n')
    for name in ("x.parquet", "x.csv"):
        assert read(tmp_path / name)[0] == [
            Document("a", "Disks", "Delete one."),
            Document("b", "", "two"),
        ]
    (tmp_path / "y.tsv").write_text("text\none\ntwo\n")
    assert [document.id for document in read(tmp_path / "y.tsv")[0]] == ["2", "3"]


def test_prefix_is_added_only_to_ids_that_are_line_numbers(tmp_path):
    (tmp_path / "x.txt").write_text("one\ntwo\n")
    assert [document.id for document in read(tmp_path / "x.txt", id_prefix="new-")[0]] == [
        "new-1",
        "new-2",
    ]
    (tmp_path / "x.jsonl").write_text(
        '{"text": "one"}\n{"_id": 7, "text": "two"}\n{"id": "a", "text": "three"}\n'
    )
    assert [document.id for document in read(tmp_path / "x.jsonl", id_prefix="new-")[0]] == [
        "new-1",
        "7",
        "a",
    ]


def test_blank_and_repeated_documents_are_left_out_and_counted(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"_id": "a", "text": "one"}\n{"_id": "a", "text": "two"}\n{"_id": "b", "title": " ",'
        ' "text": " "}\n'
    )
    found, report = read(tmp_path / "x.jsonl")
    assert found == [Document("a", "", "one")]
    assert (report.duplicate_ids, report.blank_rows_dropped) == (1, 1)


def test_wrong_fields_are_named_with_their_lines(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"_id": "a", "body": "one"}\n{"_id": "b", "text": ["x"]}\n')
    with pytest.raises(
        TooManyBadRows, match=r"(?s)x\.jsonl:1.*'text' is missing.*body.*x\.jsonl:2.*a list"
    ):
        read(tmp_path / "x.jsonl")


def test_unreadable_lines_are_limited_by_a_budget(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "one"}\n{"text": \xff}\n{"text": "two"')
    with pytest.raises(TooManyBadRows) as refusal:
        read(tmp_path / "x.jsonl")
    assert "data check" not in str(refusal.value), "which reads pairs"
    found, report = read(tmp_path / "x.jsonl", ratio=0.7)
    assert [document.text for document in found] == ["one"]
    assert report.bad_count == 2


def test_missing_files_and_folders_are_refused(tmp_path):
    for path, problem in (
        (tmp_path / "nothing.jsonl", "cannot be read"),
        (tmp_path, "without corpus.jsonl; .* pictures needs a model of images"),
    ):
        with pytest.raises(BadData, match=problem):
            read(path)


def test_mistyped_file_is_answered_with_the_right_one(tmp_path):
    (tmp_path / "docs.jsonl").touch()
    with pytest.raises(BadData, match=r"No such file.*; did you mean .*/docs\.jsonl\?$"):
        read(tmp_path / "doc.jsonl")
