"""The documents of a retrieval set: those of the corpus and of the rows, each text once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.readers.corpus import read_document_ids
from trainer.data.readers.corpus_texts import CorpusTexts
from trainer.data.readers.report import ReadReport
from trainer.data.retrieval_set import RetrievalSet, retrieval_set_from_rows
from trainer.data.rows import Row

TEXTS = st.sampled_from("abcdefgh")
ROWS = st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS).map(tuple)), min_size=1, max_size=8)
CORPUS = st.dictionaries(TEXTS, st.sampled_from([f"{kind}{n}" for kind in "dq" for n in range(4)]))


def answers(found: RetrievalSet) -> list[set[str]]:
    """The texts that answer each query."""
    texts = dict(zip(found.document_ids, found.documents, strict=True))
    return [{texts[id] for id in grades} for grades in found.qrels.values()]


@given(ROWS, CORPUS.filter(lambda corpus: len({*corpus.values()}) == len(corpus)))
def test_documents_are_the_corpus_and_all_judged_texts(
    texts: list[tuple[str, str, tuple[str, ...]]], corpus: dict[str, str]
) -> None:
    rows = [Row(*row) for row in texts]
    found = retrieval_set_from_rows(rows, "toy test", CorpusTexts.of(corpus))
    judged = {text for row in rows for text in (row.positive, *row.negatives)}
    assert sorted(found.documents) == sorted(judged | corpus.keys())
    ids = dict(zip(found.documents, found.document_ids, strict=True))
    assert len({*ids.values()}) == len(ids)
    assert {text: ids[text] for text in corpus} == corpus
    assert not {*found.query_ids} & {*corpus.values()}
    alone = retrieval_set_from_rows(rows, "toy test")
    assert answers(found) == answers(alone)


def test_only_sets_without_a_corpus_have_a_limitation(caplog: pytest.LogCaptureFixture) -> None:
    rows = [Row("q", "a"), Row("r", "b")]
    assert retrieval_set_from_rows(rows, "toy dev").limitation.startswith(
        "searched among the 2 answers of the validation set alone"
    )
    complete, other = (CorpusTexts.of({"a": "1", text: "2"}) for text in "bx")
    assert retrieval_set_from_rows(rows, "toy test", complete).limitation == ""
    assert not caplog.records
    assert retrieval_set_from_rows(rows, "toy test", other).limitation == ""
    assert "toy test: 1 of its 2 answers are not in the corpus" in caplog.text


def test_corpus_of_one_text_under_two_ids(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text('{"_id": "x", "text": "a"}\n{"_id": "y", "text": "a"}\n{"text": "b"}\n')
    assert read_document_ids(str(path), ReadReport("docs")) == {"a": "x", "b": "3"}
