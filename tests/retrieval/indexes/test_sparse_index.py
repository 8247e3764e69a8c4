"""Indexes of sparse vectors: the hits and scores of the exact search, and why a document is one."""

import json

import numpy as np
import pytest
import torch
from toy_models import SENTENCES, masked_lm
from verbs import command_caller

from trainer.cli.index import index
from trainer.cli.search import search
from trainer.data.readers.corpus import Document
from trainer.errors import BadFolder, BadModel, BadRecipe
from trainer.evaluation.systems.names import parse_system
from trainer.evaluation.systems.open import SystemOpener, SystemSettings
from trainer.evaluation.systems.system import Corpus
from trainer.models.formats.folder import save_encoder
from trainer.models.masked_lm import vocabulary_head
from trainer.models.sparse import SparseSettings, build_sparse_encoder, read_sparse_encoder
from trainer.retrieval.encoding.encode import Encoding, encode_documents
from trainer.retrieval.indexes.searcher import Searcher, hits
from trainer.retrieval.indexes.sparse import SparseIndex, build_sparse_index
from trainer.vectors.sparse import SparseVectors
from trainer.vectors.vectors import nearest_documents

WORDS = " ".join(SENTENCES).split()
DOCUMENTS = [
    Document(f"doc{row}", "", " ".join([*WORDS[row % 13 :: 5], *WORDS[row % 7 :: 11]]))
    for row in range(120)
]
"""From row 91 on, each is a duplicate."""

call = command_caller(index, search)


@pytest.fixture(scope="module")
def model(toy_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparse") / "model"
    settings = SparseSettings(backbone=str(masked_lm(toy_folder("bert"))))
    save_encoder(build_sparse_encoder(settings), folder)
    return folder


@pytest.fixture(scope="module")
def encoder(model):
    return read_sparse_encoder(str(model))


@pytest.fixture(scope="module")
def built(encoder, model, tmp_path_factory):
    """An index that no test changes."""
    folder = tmp_path_factory.mktemp("indexes") / "sparse"
    build_sparse_index(Encoding(encoder), str(model), iter(DOCUMENTS), folder)
    return folder


def random_queries(vocabulary):
    """Queries with 0 to 29 terms, one of them with a word that no document has."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.zeros(30, vocabulary)
    for row in range(30):
        words = torch.randperm(vocabulary, generator=generator)[:row]
        weights[row, words] = torch.rand(row, generator=generator) * 3
    parts = [(torch.arange(30), weights)]
    return SparseVectors.from_micro_batches(parts, 30, vocabulary, torch.device("cpu"))


def test_search_equals_the_exact_search_to_the_last_bit(encoder, built):
    queries = random_queries(encoder.dimensions)
    documents = encode_documents(encoder, [document.full_text for document in DOCUMENTS])
    exact_scores, exact_rows = nearest_documents(queries, documents, 120)
    shares_a_term = exact_scores > 0
    assert 0 < shares_a_term.sum() < shares_a_term.size
    assert len(np.unique(exact_scores[29])) < 100, "duplicates have equal scores"
    scores, rows = SparseIndex.open(built).nearest(queries, 500)
    np.testing.assert_array_equal(rows, np.where(shares_a_term, exact_rows, -1))
    np.testing.assert_array_equal(scores, np.where(shares_a_term, exact_scores, -np.inf))
    some_scores, some_rows = SparseIndex.open(built).nearest(queries, 7)
    np.testing.assert_array_equal(some_rows, rows[:, :7])
    np.testing.assert_array_equal(some_scores, scores[:, :7])


def test_hits_have_the_documents_and_the_scores_of_pairs(encoder, built):
    question = "delete a disk"
    (best,) = hits(SparseIndex.open(built), encoder, [question], 4)
    assert [hit.score for hit in best] == sorted((hit.score for hit in best), reverse=True)
    assert all(hit.document in DOCUMENTS for hit in best)
    terms = Searcher.open(built).explain(question, best[0])
    assert sum(term.score for term in terms) == pytest.approx(best[0].score, rel=1e-5)
    assert [term.score for term in terms] == sorted((term.score for term in terms), reverse=True)
    assert all(term.score == term.query_weight * term.document_weight > 0 for term in terms)
    vocabulary = encoder.tokenizer.get_vocab()
    assert all(term.term in vocabulary for term in terms)


def test_corpus_is_encoded_in_parts(encoder, built, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.retrieval.encoding.encode._MOST_DOCUMENTS", 50)
    build_sparse_index(Encoding(encoder), "toy", DOCUMENTS, tmp_path / "idx")
    for name in ("starts", "rows"):
        lists, lists_in_parts = (
            np.load(folder / f"{name}.npy") for folder in (built, tmp_path / "idx")
        )
        np.testing.assert_array_equal(lists, lists_in_parts)
    weights, weights_in_parts = (
        np.load(folder / "weights.npy") for folder in (built, tmp_path / "idx")
    )
    np.testing.assert_allclose(weights, weights_in_parts, atol=1e-5)


def test_documents_without_active_terms_are_never_hits(toy_folder, tmp_path, capsys):
    settings = SparseSettings(backbone=str(masked_lm(toy_folder("bert"))))
    silent = build_sparse_encoder(settings).eval()
    torch.nn.init.constant_(vocabulary_head(silent.backbone).bias, -1000.0)
    save_encoder(silent, tmp_path / "model")
    build_sparse_index(Encoding(silent), str(tmp_path / "model"), DOCUMENTS[:3], tmp_path / "idx")
    found = call("search", tmp_path / "idx", "delete a disk", "--explain")
    assert (found.stdout, found.exit_code) == ("", 0)
    assert "no document shares a term with the question" in found.stderr


def test_other_models_are_refused(encoder, toy_folder, built, tmp_path):
    opened = SparseIndex.open(built)
    opened.fit_encoder(encoder)
    with torch.autocast("cpu", torch.bfloat16):
        opened.fit_encoder(encoder)
    with pytest.raises(
        BadModel, match=r"one sparse vector per document, but the model gives one vector per docum"
    ):
        call("search", built, "disk", "--model", toy_folder("bert"))
    settings = SparseSettings(backbone=str(masked_lm(toy_folder("distilbert"))))
    save_encoder(build_sparse_encoder(settings), tmp_path / "other")
    with pytest.raises(BadModel, match="other vectors than the model that made the index"):
        call("search", built, "disk", "--model", tmp_path / "other")
    narrow = SparseVectors(np.float32([[0, 1]]), np.array([0, 1]), 3)
    with pytest.raises(BadModel, match="weights of 3 words"):
        opened.nearest(narrow, 5)


def test_evaluation_of_the_index_equals_that_of_the_model(model, built):
    texts = [document.full_text for document in DOCUMENTS]
    opener = SystemOpener(
        Corpus("toys", [document.id for document in DOCUMENTS], texts), SystemSettings("fp32")
    )
    queries = {f"q{row}": " ".join(WORDS[row : row + 3]) for row in range(9)}
    by_model, by_index = (
        opener.open(parse_system(name)).search(queries, 30)
        for name in (str(model), f"index:{built}")
    )
    assert by_index.keys() == by_model.keys() == queries.keys()
    for query, results in by_model.items():
        assert by_index[query] == pytest.approx(results, rel=1e-6)


def test_index_is_built_and_searched_by_commands(model, tmp_path):
    lines = [{"_id": each.id, "title": "", "text": each.text} for each in DOCUMENTS[:40]]
    corpus, idx = tmp_path / "corpus.jsonl", tmp_path / "idx"
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "40 documents, inverted" in call("index", model, corpus, "-o", idx).stdout
    page = call("search", idx, "delete a disk", "-k", 1, "--explain").stdout
    rows = [line.split() for line in page.splitlines()]
    assert ["term", "question", "first", "document", "score"] in rows
    assert rows[-1][0] == "total"
    assert float(rows[-1][1]) == pytest.approx(float(rows[0][1]), abs=2e-3)
    (hit,) = json.loads(call("search", idx, "disk", "-k", 1, "--explain", "--json").stdout)
    assert hit["matches"][0].keys() == {"term", "query_weight", "document_weight", "score"}
    with pytest.raises(BadRecipe, match="one sparse vector per document; its kinds are inverted"):
        call("index", model, corpus, "-o", tmp_path / "new", "--kind", "flat")
    with pytest.raises(BadFolder, match="--replace"):
        call("index", model, corpus, "-o", idx)
    call("index", model, corpus, "-o", idx, "--replace")
