"""R20: duplicate ids, several positives of one query, one text under two ids: reported, and known
as positives of one another.
"""

import json
from pathlib import Path

from trainer.batch import identity
from trainer.data.readers.read import read_rows
from trainer.data.rows import known_positives
from trainer.data.summary.summarize import summarize_data


def make_folder(folder: Path) -> str:
    corpus = [
        {"_id": "d1", "text": "same"},
        {"_id": "d2", "text": "same"},
        {"_id": "d3", "text": "other"},
        {"_id": "d3", "text": "ignored"},
    ]
    queries = [{"_id": "q1", "text": "ask"}, {"_id": "q2", "text": "ask too"}]
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in corpus))
    (folder / "queries.jsonl").write_text("".join(json.dumps(record) + "\n" for record in queries))
    (folder / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t1\nq1\td3\t1\nq2\td3\t1\n"
    )
    return str(folder)


def test_r20_duplicates_in_a_folder_are_reported(tmp_path: Path) -> None:
    rows = read_rows(make_folder(tmp_path / "twins"))
    assert [row.positive for row in rows] == ["same", "same", "other", "other"]
    assert (
        rows.report.duplicate_ids,
        rows.report.same_text_under_two_ids,
        rows.report.duplicate_rows,
    ) == (1, 1, 1)
    found = summarize_data(str(tmp_path / "twins")).report
    assert (found.duplicate_ids, found.same_text_under_two_ids, found.duplicate_rows) == (1, 1, 1)


def test_r20_every_positive_of_a_query_is_known_from_each_of_its_rows(tmp_path: Path) -> None:
    rows = read_rows(make_folder(tmp_path / "twins"))
    assert known_positives(rows)[identity("ask")] == {identity("same"), identity("other")}


def test_r20_duplicate_rows_of_a_file_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text(
        '{"query": "q", "positive": "p"}\n' * 3 + '{"query": "q", "positive": "other"}\n'
    )
    rows = read_rows(str(path))
    assert (len(rows), rows.report.duplicate_rows) == (4, 2)
