import gzip

import pytest

from trainer.data.readers.report import ReadReport
from trainer.errors import BadData, TooManyBadRows
from trainer.retrieval.corpus import Document, read_corpus


def read(path, ratio=0.001, id_prefix=""):
    report = ReadReport(str(path))
    return list(read_corpus(path, report, ratio, id_prefix)), report


def test_beir_lines_and_folders(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "a", "title": "Disks", "text": "Delete one."}\n{"_id": 7, "title": "", "text": "No'
        ' title."}\n'
    )
    found, report = read(tmp_path / "corpus.jsonl")
    assert found == [Document("a", "Disks", "Delete one."), Document("7", "", "No title.")]
    assert [document.whole for document in found] == ["Disks Delete one.", "No title."]
    assert read(tmp_path)[0] == found
    assert report.rows_kept == 2


@pytest.mark.parametrize("field", ["text", "document", "positive"])
def test_any_json_lines_with_a_text_get_line_numbers_as_ids(tmp_path, field):
    (tmp_path / "x.jsonl").write_text(f'{{"{field}": "one"}}\n\n{{"{field}": "two", "other": 3}}\n')
    assert read(tmp_path / "x.jsonl")[0] == [Document("1", "", "one"), Document("3", "", "two")]


def test_plain_text_has_one_document_a_line_also_packed(tmp_path):
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress("\ufeffone\r\n\ntwo é".encode()))
    found, report = read(tmp_path / "x.txt.gz")
    assert found == [Document("1", "", "one"), Document("3", "", "two é")]
    assert report.blank_rows_dropped == 1


def test_a_prefix_goes_before_ids_that_are_line_numbers_and_before_no_others(tmp_path):
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
    with pytest.raises(BadData, match=r"(?s)x\.jsonl:1.*text is missing.*body.*x\.jsonl:2.*a list"):
        read(tmp_path / "x.jsonl")


def test_unreadable_lines_are_within_a_budget(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "one"}\n{"text": \xff}\n{"text": "two"')
    with pytest.raises(TooManyBadRows):
        read(tmp_path / "x.jsonl")
    found, report = read(tmp_path / "x.jsonl", ratio=0.7)
    assert [document.text for document in found] == ["one"]
    assert report.bad_count == 2


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path):
    for path in (tmp_path / "nothing.jsonl", tmp_path):
        with pytest.raises(BadData, match="cannot be read"):
            read(path)
