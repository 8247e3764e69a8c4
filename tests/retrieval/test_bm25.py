import math
import re
from collections import Counter

import pytest

from trainer.data.retrieval_set import RetrievalSet
from trainer.retrieval.bm25 import bm25_run

DOCUMENTS = (
    "Delete a disk. A disk is gone for good.",
    "Create a storage account",
    "delete the storage account and every disk in it",
    "",
    "Create a storage account",
)


def set_of(queries, documents=DOCUMENTS):
    qrels = {f"q{number}": {"d0": 1} for number in range(len(queries))}
    return RetrievalSet(
        "toy",
        tuple(qrels),
        tuple(queries),
        tuple(f"d{row}" for row in range(len(documents))),
        tuple(documents),
        qrels,
    )


def words_of(text):
    return [
        word
        for word in re.findall(r"\b\w\w+\b", text.lower())
        if word not in ("the", "and", "in", "it", "is", "for")
    ]


def by_the_formula(query, documents, k1=0.9, b=0.4):
    """Lucene's BM25: idf = log(1 + (N - df + 0.5) / (df + 0.5)), tf / (tf + k1 (1 - b + b length /
    mean length)).
    """
    words = [words_of(text) for text in documents]
    mean = sum(map(len, words)) / len(words)
    scores = {}
    for row, text in enumerate(words):
        for word in words_of(query):
            frequency, found = Counter(text)[word], sum(word in other for other in words)
            if frequency:
                idf = math.log(1 + (len(words) - found + 0.5) / (found + 0.5))
                scores[f"d{row}"] = scores.get(f"d{row}", 0) + idf * frequency / (
                    frequency + k1 * (1 - b + b * len(text) / mean)
                )
    return scores


def test_scores_equal_the_formula():
    queries = ("delete a disk", "Storage Account", "is the account gone")
    run = bm25_run(set_of(queries))
    for number, query in enumerate(queries):
        wanted = by_the_formula(query, DOCUMENTS)
        assert wanted
        assert run[f"q{number}"] == pytest.approx(wanted, abs=1e-5)


def test_queries_without_a_known_word_find_nothing():
    assert bm25_run(set_of(["zebra", "", "is it", "delete"]))["q3"]
    assert bm25_run(set_of(["zebra", "", "is it"])) == {"q0": {}, "q1": {}, "q2": {}}


def test_first_of_equal_documents_is_returned():
    assert list(bm25_run(set_of(["create storage"]), k=1)["q0"]) == ["d1"]


def test_corpus_without_words_is_searched():
    assert bm25_run(set_of(["delete"], documents=("", "?"))) == {"q0": {}}


def test_bm25_prints_nothing(capfd):
    bm25_run(set_of(["delete"]))
    assert capfd.readouterr() == ("", "")
