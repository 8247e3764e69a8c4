"""CSV, TSV, Parquet, Arrow and saved data sets: the same rows from each, and named errors."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from trainer.data.readers.read import read_rows
from trainer.errors import BadData, TooManyBadRows

RECORDS = [
    {"question": "what, exactly?", "answer": 'this "one"', "negative": "that"},
    {"question": "why\tnot", "answer": "été", "negative": "x"},
]
EXPECTED = [(record["question"], record["answer"], (record["negative"],)) for record in RECORDS]


def triples(source: Path, **options: object) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(row.query, row.positive, row.negatives) for row in read_rows(str(source), **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_csv_with_quotes_and_line_breaks_is_read(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        f'question{delimiter}answer\n"two\nlines"{delimiter}"says ""yes"""\nb{delimiter}c\n'
    )
    rows = read_rows(str(path))
    assert [(row.query, row.positive, row.source) for row in rows] == [
        ("two\nlines", 'says "yes"', "t.csv:2"),
        ("b", "c", "t.csv:4"),
    ]


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('query\tdocument\n"unclosed\tand so\nb\tc\n')
    assert triples(path) == [('"unclosed', "and so", ()), ("b", "c", ())]


def test_csv_rows_that_do_not_fit_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'query,positive\na,b\nonly one\na,b,c\nx,"y"z\n\xff,b\nlast,row\n')
    rows = read_rows(str(path), max_bad_rows_ratio=0.9)
    assert [row.query for row in rows] == ["a", "last"]
    assert sorted((bad.source, bad.reason) for bad in rows.report.bad_rows) == [
        ("t.csv:3", "wrong number of fields"),
        ("t.csv:4", "wrong number of fields"),
        ("t.csv:5", "not CSV"),
        ("t.csv:6", "not UTF-8"),
    ]
    with pytest.raises(TooManyBadRows, match="4 of 6 rows"):
        read_rows(str(path))


@pytest.mark.parametrize("header", ["", ",", "query,query\n", "\n"])
def test_csv_needs_a_header(tmp_path: Path, header: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(header)
    with pytest.raises(BadData, match="names its columns"):
        read_rows(str(path))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_header_that_is_not_utf_8_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("betreff;lösung\nquery;positive\na;b\n", encoding=encoding)
    with pytest.raises(BadData, match=r"(?s)UTF-8.*iconv"):
        read_rows(str(path))


def test_example_in_a_message_names_a_column_with_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,query,body\n1,a,b\n")
    with pytest.raises(BadData, match="--column positive=body"):
        read_rows(str(path))


def test_parquet_arrow_and_saved_folders_give_the_same_rows(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(RECORDS)
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "t.feather")
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as stream:
        stream.write_table(table)
    saved = datasets.Dataset.from_list(RECORDS)
    saved.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": saved, "validation": saved.select([0])}).save_to_disk(
        tmp_path / "splits"
    )
    for name in ("t.parquet", "t.feather", "stream.arrow", "saved", "splits"):
        assert triples(tmp_path / name) == EXPECTED, name
    assert triples(tmp_path / "splits", split="dev") == EXPECTED[:1]
    with pytest.raises(BadData, match="no test split; its splits: train, validation"):
        triples(tmp_path / "splits", split="test")


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.arrow"])
def test_damaged_columnar_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pyarrow.parquet.write_table(pa.Table.from_pylist(RECORDS), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadData, match=f"{name} is not a whole"):
        read_rows(str(path))


def test_lists_in_parquet_are_multiple_positives(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(
        pa.Table.from_pylist([{"query": "q", "pos": ["a", "b"], "neg": ["c"]}]), path
    )
    assert triples(path) == [("q", "a", ("c",)), ("q", "b", ("c",))]


def test_unknown_layouts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.xlsx").write_bytes(b"PK")
    judged_images = tmp_path / "images"
    (judged_images / "qrels").mkdir(parents=True)
    (judged_images / "corpus.parquet").touch()
    for source, reason in (
        (tmp_path / "data.xlsx", "no known layout"),
        (tmp_path, "folder of no known layout"),
        (judged_images, "folder of judged images, not texts; expected"),
        (tmp_path / "no.jsonl", "does not exist"),
    ):
        with pytest.raises(BadData, match=reason):
            read_rows(str(source))


@pytest.mark.parametrize(
    ("source", "suggestion"),
    [
        ("data/pair.jsonl", "data/pairs.jsonl"),
        ("data/pairs", "data/pairs.jsonl"),
        ("datta/pairs/x.y/z", None),
        ("./dat/pairs", "data/pairs.jsonl"),
    ],
)
def test_mistyped_source_is_answered_with_the_right_one(
    source: str, suggestion: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/pairs.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadData) as raised:
        read_rows(source)
    advice = f"did you mean {suggestion}?" if suggestion else "Check the path."
    assert advice in str(raised.value)
