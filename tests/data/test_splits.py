"""Holding out: nothing leaks, nothing is lost, and the same rows give the same split."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.near_duplicates import find_near_identical, normal_form, word_set
from trainer.data.readers.read import read_rows
from trainer.data.rows import Row, Rows
from trainer.data.splits import connected_groups, hold_out, split_by_document
from trainer.errors import BadData

SMALL = st.integers(0, 12)


@settings(deadline=None)
@given(st.lists(st.tuples(SMALL, SMALL), min_size=1, max_size=40))
def test_connected_groups_equal_a_graph_search(pairs: list[tuple[int, int]]) -> None:
    found = connected_groups(*(np.array(column) for column in zip(*pairs, strict=True)))
    for start in range(len(pairs)):
        reached, new = {start}, {start}
        while new:
            new = {
                other
                for other in range(len(pairs))
                for at in new
                if pairs[at][0] == pairs[other][0] or pairs[at][1] == pairs[other][1]
            } - reached
            reached |= new
        assert found[start] == min(reached)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(SMALL, SMALL), min_size=2, max_size=30), st.integers(0, 3))
def test_hold_out_never_leaks(pairs: list[tuple[int, int]], seed: int) -> None:
    rows = Rows.of(
        Row(f"{'The ' * (at % 2)}query number{query}{'?' * (at % 3)}", f"DOCUMENT {document}.")
        for at, (query, document) in enumerate(pairs)
    )
    try:
        train, validation = hold_out(rows, 0.2, 5, seed)
    except BadData:
        return
    assert len(train) + len(validation) == len(rows)
    assert len(train)
    assert len(validation)
    assert not {word_set(row.query) for row in train} & {word_set(row.query) for row in validation}
    assert not {normal_form(row.positive) for row in train} & {
        normal_form(row.positive) for row in validation
    }
    again = hold_out(rows, 0.2, 5, seed)
    assert [list(part) for part in again] == [list(train), list(validation)]


def test_hold_out_takes_the_requested_share_and_depends_on_the_seed() -> None:
    rows = Rows.of(Row(f"question {number}", f"answer {number}") for number in range(200))
    train, validation = hold_out(rows, 0.1, 1000, 0)
    assert (len(train), len(validation)) == (180, 20)
    assert len(hold_out(rows, 0.1, 7, 0)[1]) == 7
    assert set(hold_out(rows, 0.1, 1000, 1)[1]) != set(validation)
    backwards = rows.select(np.arange(200)[::-1].copy())
    assert set(hold_out(backwards, 0.1, 1000, 0)[1]) == set(validation)


def test_near_identical_training_rows_are_dropped() -> None:
    long = "update the backup policy of one protected item in the recovery services vault"
    rows = Rows.of([Row(long, "1"), Row(f"{long} now", "2"), Row("quite another", "3")])
    sizes = set()
    for seed in range(8):
        train, validation = hold_out(rows, 0.3, 1, seed)
        assert (
            find_near_identical([row.query for row in train], [row.query for row in validation])
            == []
        )
        sizes.add((len(train), len(validation)))
    assert sizes == {(2, 1), (1, 1)}
    assert any("1 training rows were left out" in note for note in rows.report.notes)


@pytest.mark.parametrize(
    "pairs",
    [[("q", "d")], [("q", "a"), ("Q!", "b")], [("a", "d"), ("b", "D"), ("c", "d.")]],
    ids=["one row", "one query", "one document"],
)
def test_rows_that_cannot_be_split_are_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(BadData, match=r"no validation part can be held out.*data.validation=FILE"):
        hold_out(Rows.of(Row(*pair) for pair in pairs), 0.1, 1000, 0)


def test_hold_out_splits_real_data(real_data: Path) -> None:
    rows = read_rows(str(real_data / "aws_cli"), split="test")
    train, validation = hold_out(rows, 0.1, 1000, 13)
    assert len(train) + len(validation) > 0.95 * len(rows)
    assert 110 < len({row.query for row in validation}) <= 125
    assert not {row.positive for row in train} & {row.positive for row in validation}


@settings(deadline=None)
@given(
    st.lists(st.text("ab cd", max_size=8), max_size=12),
    st.lists(st.text("ab cd", max_size=8), max_size=12),
    st.sampled_from([0.5, 0.8, 0.9, 1.0]),
)
def test_search_for_near_identical_texts_misses_none(
    texts: list[str], others: list[str], overlap: float
) -> None:
    def near(one: str, other: str) -> bool:
        first, second = word_set(one), word_set(other)
        return len(first & second) >= overlap * len(first | second) - 1e-9

    expected = [
        at
        for at, text in enumerate(texts)
        if any(near(text, other) and word_set(text) for other in others)
    ]
    assert [at for at, _ in find_near_identical(texts, others, overlap)] == expected


def test_split_by_document_keeps_shared_documents_together() -> None:
    positives = {f"q{number}": (f"d{number // 2}", f"d{number // 2 + 50}") for number in range(60)}
    splits = split_by_document(positives, {"test": 20, "dev": 5})
    assert {name: len(queries) for name, queries in splits.items()} == {
        "test": 20,
        "dev": 4,
        "train": 36,
    }
    documents = {
        name: {document for query in queries for document in positives[query]}
        for name, queries in splits.items()
    }
    assert not documents["test"] & documents["train"]
    assert not documents["test"] & documents["dev"]
