"""R18: a missing field, a wrong type, a list for a text: the row is set aside within the budget.
Beyond it, the field and the first three rows are named.
"""

import json
from pathlib import Path

import pytest
from forked import nearfar

from trainer.data.readers.read import read_rows
from trainer.data.retrieval_set import read_retrieval_set
from trainer.errors import TooManyBadRows

GOOD = {"query": "q", "positive": "p"}
WRONG = {
    "missing query": ({"positive": "p"}, "the field 'query' is missing"),
    "missing positive": ({"query": "q"}, "the field 'positive' is missing"),
    "number": (
        {"query": 3, "positive": "p"},
        r"the field 'query' is a int, expected a text \(3\)",
    ),
    "list for a query": (
        {"query": ["a", "b"], "positive": "p"},
        r"the field 'query' is a list, expected a text \(\['a', 'b'\]\)",
    ),
    "numbers in a list": ({"query": "q", "positive": ["a", 1]}, "'positive' is a int"),
    "object": ({"query": "q", "positive": {"body": "x"}}, "'positive' is a dict"),
    "true": ({"query": "q", "positive": True}, "'positive' is a bool"),
}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(("record", "problem"), WRONG.values(), ids=WRONG)
def test_r18_wrong_row_is_set_aside_within_the_budget(
    tmp_path: Path, record: dict[str, object], problem: str
) -> None:
    lines = (GOOD, record, GOOD, record, record, record)
    path = write(tmp_path / "rows.jsonl", *lines)
    rows = read_rows(str(path), max_bad_rows_ratio=0.7)
    assert (len(rows), rows.report.bad_count) == (2, 4)
    with pytest.raises(TooManyBadRows, match=problem) as raised:
        read_rows(str(path), max_bad_rows_ratio=0.6)
    assert [f"rows.jsonl:{line}:" in str(raised.value) for line in (2, 4, 5, 6)] == [
        True,
        True,
        True,
        False,
    ]
    assert "--column query=NAME" in str(raised.value)
    assert raised.value.exit_code == 87


@pytest.mark.parametrize("score", ['"high"', "null", "true", "[1, 2, 3]", "1e999"])
def test_r18_row_with_an_invalid_score_is_set_aside(tmp_path: Path, score: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"query": "q", "positive": "p", "score": 1}\n'
        f'{{"query": "q", "positive": "p", "score": {score}}}\n'
    )
    with pytest.raises(TooManyBadRows, match="rows.jsonl:2: the field 'score'"):
        read_rows(str(path))
    assert [row.labels for row in read_rows(str(path), max_bad_rows_ratio=0.5)] == [(1.0,)]


def test_r18_wrong_lines_of_a_beir_folder_are_set_aside(tmp_path: Path) -> None:
    write(tmp_path / "queries.jsonl", {"_id": "q", "text": "one"}, {"text": "no id"})
    write(
        tmp_path / "corpus.jsonl", {"_id": "d", "text": "two"}, {"_id": "e", "text": 3}, {"_id": 7}
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("q\td\t1\nq\te\t1\n")
    found = read_retrieval_set(str(tmp_path), max_bad_rows_ratio=0.6)
    assert (found.documents, found.qrels) == (("two",), {"q": {"d": 1}})
    with pytest.raises(TooManyBadRows, match=r"queries\.jsonl:2: the field '_id' is missing"):
        read_retrieval_set(str(tmp_path))


def test_r18_command_lists_wrong_rows_and_ends_with_87(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *[GOOD] * 9, {"query": "q"})
    rejected = tmp_path / "rejected.jsonl"
    checked = nearfar("data", "check", path, "--rejected", rejected)
    assert checked.returncode == 87
    assert json.loads(rejected.read_text())["reason"] == "the field 'positive' is missing"
    assert nearfar("data", "check", path, "--max-bad-rows-ratio", "0.1").returncode == 0
