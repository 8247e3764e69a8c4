"""BEIR folders: rows of a split, and the retrieval set with its whole corpus."""

import gzip
import json
from pathlib import Path

import pytest

from trainer.data.readers.read import read_rows
from trainer.data.retrieval_set import read_retrieval_set, retrieval_set_from_rows
from trainer.data.rows import Row
from trainer.errors import BadData, TooManyBadRows

CORPUS = [
    {"_id": "d1", "title": "Disk", "text": "delete it"},
    {"_id": "d2", "title": "", "text": "show it"},
    {"_id": "d3", "text": "never asked"},
]
QUERIES = [{"_id": "q1", "text": "remove"}, {"_id": "q2", "text": "display"}]


def make_folder(
    folder: Path, corpus: list | None = None, queries: list | None = None, **qrels: str
) -> Path:  # type: ignore[type-arg]
    (folder / "qrels").mkdir(parents=True)
    for name, records in (("corpus", corpus or CORPUS), ("queries", queries or QUERIES)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in records)
        )
    for split, lines in qrels.items():
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return folder


def test_folder_gives_rows_and_a_retrieval_set(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "toy", train="q1\td1\t1\nq1\td2\t0\n", test="q2\td2\t2\nq2\td1\t0\n"
    )
    assert list(read_rows(str(folder))) == [
        Row("remove", "Disk delete it", source="qrels/train.tsv:2")
    ]
    found = read_retrieval_set(str(folder), "test")
    assert (found.name, found.query_ids, found.queries) == ("toy test", ("q2",), ("display",))
    assert (found.document_ids, found.documents) == (
        ("d1", "d2", "d3"),
        ("Disk delete it", "show it", "never asked"),
    )
    assert found.qrels == {"q2": {"d2": 2, "d1": 0}}


def test_missing_split_is_refused_with_the_existing_ones(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "toy", train="q1\td1\t1\n")
    with pytest.raises(BadData, match=r"no split 'dev'.*splits there: train"):
        read_rows(str(folder), split="dev")


def test_compressed_files_and_trec_qrels_are_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "toy", train="q1\td1\t1\n")
    corpus = folder / "corpus.jsonl"
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    corpus.unlink()
    for judgement in ("q2\t0\td2\t1", "q2 0 d2 1", "q2  Q0   d2  1 "):
        (folder / "qrels" / "test.tsv").write_text(f"{judgement}\n")
        assert [row.positive for row in read_rows(str(folder), split="test")] == ["show it"]


def test_bad_judgements_are_set_aside(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "toy", train="q1\td1\t1\nq1 d1 1\nq2\td2\thigh\n")
    rows = read_rows(str(folder), max_bad_rows_ratio=0.5)
    assert len(rows) == 1
    assert rows.report.bad == {"not a judgement": 2}
    with pytest.raises(TooManyBadRows):
        read_rows(str(folder))


def test_blank_documents_are_no_candidates(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "toy",
        corpus=[*CORPUS, {"_id": "blank", "title": "", "text": " "}],
        test="q1\td1\t1\nq2\tblank\t1\n",
    )
    found = read_retrieval_set(str(folder), "test")
    assert "blank" not in found.document_ids
    assert found.query_ids == ("q1",)


def test_ids_may_be_numbers_but_not_missing(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "toy",
        corpus=[{"_id": 7, "text": "seven"}],
        queries=[{"_id": 1, "text": "one"}],
        test="1\t7\t1\n",
    )
    assert read_retrieval_set(str(folder), "test").documents == ("seven",)
    broken = make_folder(tmp_path / "broken", corpus=[{"text": "no id"}], test="q1\td1\t1\n")
    with pytest.raises(TooManyBadRows, match="corpus.jsonl:1: the field '_id' is missing"):
        read_retrieval_set(str(broken), "test")


def test_selected_queries_are_the_same_in_every_run(tmp_path: Path) -> None:
    queries = [{"_id": f"q{number}", "text": f"text {number}"} for number in range(50)]
    folder = make_folder(
        tmp_path / "toy",
        queries=queries,
        test="".join(f"q{number}\td1\t1\n" for number in range(50)),
    )
    few = read_retrieval_set(str(folder), "test", max_queries=10)
    assert few == read_retrieval_set(str(folder), "test", max_queries=10)
    assert len(few.queries) == len(few.qrels) == 10
    assert few.query_ids != tuple(f"q{number}" for number in range(10))
    assert len(few.documents) == 3


def test_set_from_pairs_has_every_positive_and_negative() -> None:
    found = retrieval_set_from_rows(
        [Row("q", "a", ("x",)), Row("r", "a"), Row("s", "b", labels=(0.0,))], "pairs"
    )
    assert found.documents == ("a", "x", "b")
    assert found.qrels == {"q0": {"d0": 1}, "q1": {"d0": 1}}
    with pytest.raises(BadData, match="no row has a positive"):
        retrieval_set_from_rows([Row("s", "b", labels=(0.0,))], "scored")
