"""R18: a missing field, a wrong type, a list for a text: the field and the first three rows are
named.
"""

import json
from pathlib import Path

import pytest

from trainer.data.readers.read import read_rows
from trainer.errors import BadData

WRONG = {
    "missing": ({"positive": "p"}, "'query' is missing"),
    "number": ({"query": 3, "positive": "p"}, "'query' is a int, expected a text: 3"),
    "list for a query": (
        {"query": ["a", "b"], "positive": "p"},
        r"'query' is a list, expected a text: \['a', 'b'\]",
    ),
    "numbers in a list": ({"query": "q", "positive": ["a", 1]}, "'positive' is a int"),
    "object": ({"query": "q", "positive": {"body": "x"}}, "'positive' is a dict"),
    "true": ({"query": "q", "positive": True}, "'positive' is a bool"),
}


@pytest.mark.parametrize(("record", "problem"), WRONG.values(), ids=WRONG)
def test_r18_error_names_the_field_and_the_first_three_rows(
    tmp_path: Path, record: dict[str, object], problem: str
) -> None:
    path = tmp_path / "rows.jsonl"
    good = {"query": "q", "positive": "p"}
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in (good, record, good, record, record, record))
    )
    with pytest.raises(BadData, match=problem) as raised:
        read_rows(str(path), max_bad_rows_ratio=1.0)
    assert [f"rows.jsonl:{line}:" in str(raised.value) for line in (2, 4, 5, 6)] == [
        True,
        True,
        True,
        False,
    ]
    assert raised.value.exit_code == 2


def test_r18_single_wrong_row_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "q", "positive": "p"}\n{"query": "q"}\n')
    with pytest.raises(BadData, match="rows.jsonl:2: the field 'positive' is missing"):
        read_rows(str(path))


@pytest.mark.parametrize("score", ['"high"', "null", "true", "[1, 2, 3]", "1e999"])
def test_r18_invalid_scores_are_refused(tmp_path: Path, score: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"query": "q", "positive": "p", "score": {score}}}\n')
    with pytest.raises(BadData, match="rows.jsonl:1: the field 'score'"):
        read_rows(str(path))
