"""`Rows` behave as the list they stand for, and vanish from disk."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.batch import identity
from trainer.data.rows import Row, Rows, count_duplicate_pairs, known_positives

TEXTS = st.text("aé\U0001f600 ", max_size=4)
ROWS = st.builds(
    Row,
    TEXTS,
    TEXTS,
    st.lists(TEXTS, max_size=3).map(tuple),
    st.none() | st.just((0.5,)),
    st.just("f:1"),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(ROWS, max_size=6))
def test_rows_equal_a_list(rows: list[Row]) -> None:
    stored = Rows.of(rows)
    assert list(stored) == rows
    assert [stored[at] for at in range(-len(rows), 0)] == rows
    assert list(stored[1:]) == rows[1:]
    assert list(stored[1:].select(np.arange(len(rows[1:]))[::-1])) == rows[1:][::-1]
    assert count_duplicate_pairs(stored.table) == len(rows) - len(
        {(row.query, row.positive) for row in rows}
    )
    assert [
        text
        for batch in stored[1:].batches(["positive"])
        for text in batch.column("positive").to_pylist()
    ] == [row.positive for row in rows[1:]]
    assert stored[1:].identities("query").tolist() == [identity(row.query) for row in rows[1:]]


def test_index_out_of_range_is_an_error() -> None:
    with pytest.raises(IndexError):
        Rows.of([])[0]
    with pytest.raises(IndexError):
        Rows.of([Row("a", "b")])[1]


def test_file_of_many_batches_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = Rows.of(Row(f"q{number}", "d" * 20_000) for number in range(900))
    assert rows[899].query == "q899"
    assert len(rows.table.column("query").chunks) > 1
    assert list(tmp_path.iterdir()) == []


def test_known_positives_cover_all_rows() -> None:
    rows = Rows.of([Row("q", "a"), Row("r", "c"), Row("q", "b"), Row("q", "a")])
    known = known_positives(rows)
    assert dict(known) == {
        identity("q"): {identity("a"), identity("b")},
        identity("r"): {identity("c")},
    }
    assert dict(known) == dict(known_positives(list(rows)))
    assert identity("nobody") not in known
    assert known.get(identity("nobody"), 5) == 5
    assert sorted(known.sizes().tolist()) == [1, 2]
