"""JSON Lines: what is read, what is set aside, and that nothing else ever happens."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.readers.json_lines import Record, read_json_lines
from trainer.data.readers.read import read_rows
from trainer.data.readers.report import BadRow
from trainer.data.rows import Row
from trainer.errors import BadData, NearfarError, TooManyBadRows


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_pairs_with_negatives_and_sources_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pairs.jsonl",
        {
            "anchor": "how",
            "positive": "so",
            "negative_2": "second",
            "negative_1": "first",
            "extra": 1,
        },
        {"anchor": "why", "positive": "because", "negative_1": None},
    )
    rows = read_rows(str(path))
    assert list(rows) == [
        Row("how", "so", ("first", "second"), None, "pairs.jsonl:1"),
        Row("why", "because", (), None, "pairs.jsonl:2"),
    ]
    assert rows.report.columns == {
        "query": ("anchor",),
        "positive": ("positive",),
        "negative": ("negative_1", "negative_2"),
    }
    assert rows.report.ignored_columns == ("extra",)


def test_several_positives_give_several_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "flag.jsonl", {"query": "q", "pos": ["a", "b", "a"], "neg": ["c", "d"]})
    assert [(row.positive, row.negatives) for row in read_rows(str(path))] == [
        ("a", ("c", "d")),
        ("b", ("c", "d")),
    ]


def test_passages_with_titles_are_read(tmp_path: Path) -> None:
    passages = {
        "positive_passages": [{"docid": "1", "title": "T", "text": "t"}],
        "negative_passages": [{"docid": "2", "title": "", "text": "n"}],
    }
    path = write(tmp_path / "tevatron.jsonl", {"query_id": "1", "query": "q"} | passages)
    assert list(read_rows(str(path))) == [Row("q", "T t", ("n",), None, "tevatron.jsonl:1")]


def test_scores_of_pairs_and_of_candidates_are_read(tmp_path: Path) -> None:
    pair = write(tmp_path / "sts.jsonl", {"sentence1": "a", "sentence2": "b", "score": 0.5})
    assert read_rows(str(pair))[0].labels == (0.5,)
    candidates = write(
        tmp_path / "teacher.jsonl",
        {
            "query": "q",
            "positive": "p",
            "negatives": ["n", "", "p", "m"],
            "scores": [9, 1, 2, 3, 4],
        },
    )
    row = read_rows(str(candidates))[0]
    assert (row.negatives, row.labels) == (("n", "m"), (9.0, 1.0, 4.0))


@pytest.mark.parametrize("scores", [[1], [1, 2], [1, 2, 3, 4]], ids=str)
def test_scores_must_fit_the_candidates(tmp_path: Path, scores: list[int]) -> None:
    path = write(
        tmp_path / "t.jsonl",
        {"query": "q", "positive": "p", "negatives": ["a", "b"], "scores": scores},
    )
    if len(scores) == 1:
        assert read_rows(str(path))[0].labels == (1.0,)
    else:
        with pytest.raises(TooManyBadRows, match="one score per candidate"):
            read_rows(str(path))


def test_number_of_negatives_is_limited(tmp_path: Path) -> None:
    path = write(
        tmp_path / "n.jsonl", {"query": "q", "positive": "p", "negatives": ["a", "b", "c"]}
    )
    assert read_rows(str(path), negatives_per_query=2)[0].negatives == ("a", "b")
    assert read_rows(str(path), negatives_per_query=0)[0].negatives == ()


def test_columns_are_assigned_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "odd.jsonl", {"title": "q", "body": "p", "text": "never"})
    assert list(read_rows(str(path), {"query": "title", "positive": "body"})) == [
        Row("q", "p", source="odd.jsonl:1")
    ]
    with pytest.raises(BadData, match=r"no column 'Title'.*'title', 'body', 'text'"):
        read_rows(str(path), {"query": "Title"})
    with pytest.raises(
        BadData, match="no column for the query.*--column query=title.*data.columns"
    ):
        read_rows(str(path))
    with pytest.raises(BadData, match="role 'anchr'"):
        read_rows(str(path), {"anchr": "title"})


def test_gz_file_gives_the_same_rows(tmp_path: Path) -> None:
    plain = write(tmp_path / "x.jsonl", {"query": "q", "positive": "p"})
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert [row.positive for row in read_rows(str(packed))] == ["p"]


def test_json_array_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "array.json"
    path.write_text('[{"query": "q", "positive": "p"}]')
    with pytest.raises(BadData, match="one object per line"):
        read_rows(str(path))


def test_utf16_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    path.write_text('{"query": "q", "positive": "p"}\n', encoding="utf-16")
    with pytest.raises(BadData, match="UTF-16"):
        read_rows(str(path))


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"\xef\xbb\xbf"], ids=["empty", "blank", "mark alone"]
)
def test_files_without_rows_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "none.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadData, match="no rows"):
        read_rows(str(path))


LETTERS = st.text(st.sampled_from('a "\\\x00\x1bé\u2028\ud800\U0001f600'), max_size=6)
OBJECTS = st.dictionaries(LETTERS, LETTERS | st.integers(), max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.binary(max_size=40)
        | st.builds(
            lambda q, p: json.dumps({"query": q, "positive": p}).encode(), LETTERS, LETTERS
        ),
        max_size=6,
    )
)
def test_random_bytes_give_rows_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    error = None
    try:
        rows = read_rows(str(path), max_bad_rows_ratio=1.0)
    except NearfarError as raised:
        error = raised
    if error:
        assert str(path) in str(error)
        return
    assert all(row.query.strip() and row.positive.strip() for row in rows)
    assert rows.report.rows_read == rows.report.bad_count + rows.report.blank_rows_dropped + len(
        rows
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(OBJECTS, max_size=5))
def test_good_objects_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, object]]
) -> None:
    path = write(tmp_path_factory.mktemp("good") / "good.jsonl", *objects)
    found = list(read_json_lines(path))
    assert not any(isinstance(item, BadRow) for item in found)
    assert [item.values for item in found if isinstance(item, Record)] == objects
