"""R21: a positive listed as its own negative is dropped and counted."""

from pathlib import Path

from trainer.data.readers.read import read_rows


def test_r21_positive_is_never_its_own_negative(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(
        '{"query": "q", "positive": "p", "negatives": ["n", "p"]}\n{"query": "q", "positive": ["a",'
        ' "b"], "negatives": ["b"]}\n{"query": "q", "positive": "p", "negative_1": "p"}\n'
    )
    rows = read_rows(str(path))
    assert [(row.positive, row.negatives) for row in rows] == [
        ("p", ("n",)),
        ("a", ()),
        ("b", ()),
        ("p", ()),
    ]
    assert rows.report.own_negatives_dropped == 3
