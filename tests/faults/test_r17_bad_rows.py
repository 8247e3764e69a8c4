"""R17: bad UTF-8, bad JSON, a truncated last line, BOM, CR LF, NUL: quarantined with file, line and
reason, counted, and too many end with 87.
"""

import json
from pathlib import Path

import pytest

from trainer.data.readers.read import read_rows
from trainer.errors import TooManyBadRows

GOOD = json.dumps({"query": "how", "positive": "so é"}, ensure_ascii=False).encode()
BAD = {
    "bad UTF-8": (b'{"query": "\xff\xfe", "positive": "p"}\n', "not UTF-8"),
    "bad JSON": (b'{"query": "q" "positive": "p"}\n', "not JSON"),
    "a list": (b'["q", "p"]\n', "not a JSON object"),
    "NaN": (b'{"query": "q", "positive": "p", "score": NaN}\n', "not JSON"),
    "deep nesting": (b"[" * 100_000 + b"\n", "not JSON"),
    "NUL byte": (b'{"query": "a\x00b", "positive": "p"}\n', "NUL byte"),
    "escaped NUL": (b'{"query": "a\\u0000b", "positive": "p"}\n', "NUL character in 'query'"),
    "half a surrogate pair": (
        b'{"query": "a\\ud800b", "positive": "p"}\n',
        "half a surrogate pair (not Unicode text) in 'query'",
    ),
    "truncated last line": (b'{"query": "q", "posi', "not JSON; truncated last line"),
}


@pytest.mark.parametrize(("line", "reason"), BAD.values(), ids=BAD)
def test_r17_bad_row_is_set_aside_and_named(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((GOOD + b"\n") * 3 + line)
    handed_on: list[str] = []
    rows = read_rows(
        str(path), max_bad_rows_ratio=0.5, on_bad=lambda bad: handed_on.append(bad.source)
    )
    assert [row.positive for row in rows] == ["so é"] * 3
    assert rows.report.bad == {reason: 1}
    assert rows.report.bad_rows[0].source == "rows.jsonl:4"
    assert handed_on == ["rows.jsonl:4"]
    with pytest.raises(TooManyBadRows, match="rows.jsonl:4") as raised:
        read_rows(str(path))
    assert raised.value.exit_code == 87


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf" + GOOD + b"\n", GOOD + b"\r\n" + GOOD + b"\r\n", GOOD],
    ids=["BOM", "CR LF", "no end of line"],
)
def test_r17_harmless_bytes_are_removed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    rows = read_rows(str(path), max_bad_rows_ratio=0.0)
    assert {(row.query, row.positive) for row in rows} == {("how", "so é")}
    assert rows.report.bad_count == 0


def test_r17_budget_of_bad_rows_is_a_share(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((GOOD + b"\n") * 999 + b"{\n")
    assert len(read_rows(str(path), max_bad_rows_ratio=0.001)) == 999
    path.write_bytes((GOOD + b"\n") * 998 + b"{\n" * 2)
    with pytest.raises(TooManyBadRows, match=r"2 of 1000 rows.*allows 1"):
        read_rows(str(path), max_bad_rows_ratio=0.001)


def test_r17_csv_with_bom_crlf_and_nul_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbfquery,positive\r\na,b\r\nc,\x00\r\nd,e")
    rows = read_rows(str(path), max_bad_rows_ratio=0.5)
    assert [(row.query, row.positive) for row in rows] == [("a", "b"), ("d", "e")]
    assert [str(bad) for bad in rows.report.bad_rows] == ["rows.csv:3: NUL byte (at byte 2)"]


def test_r17_first_bad_rows_of_each_reason_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n" + b"{\n" * 500)
    report = read_rows(str(path), max_bad_rows_ratio=1.0).report
    assert (report.bad, len(report.bad_rows)) == ({"not JSON": 500}, 20)
