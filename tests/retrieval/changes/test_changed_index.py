"""Documents are added to dense and sparse indexes, replaced and deleted: the result is an index
built anew, and old vectors are kept bit for bit.
"""

import json
import os
import shutil

import numpy as np
import pytest
from corpus_files import write_corpus
from toy_models import SENTENCES, save_sparse_toy
from verbs import command_caller

from trainer.cli.index import add, delete, index
from trainer.cli.search import search
from trainer.errors import BadData, BadFolder, BadModel, TooManyBadRows
from trainer.retrieval.changes.change import add_documents
from trainer.retrieval.encoding import encode
from trainer.retrieval.indexes.index_corpus import open_index
from trainer.retrieval.indexes.manifest import DenseManifest, describe_files
from trainer.retrieval.indexes.sparse import SparseManifest
from trainer.storage.locks import exclusive

call = command_caller(add, delete, index, search)
WORDS = " ".join(SENTENCES).split()
TEXTS = {f"doc{row}": " ".join(WORDS[row % 11 : row % 11 + 3 + row % 5]) for row in range(90)}
OLD, NEW = dict(list(TEXTS.items())[:60]), dict(list(TEXTS.items())[60:])
QUESTIONS = ("delete a disk in the region", "list storage accounts")
KINDS = ("flat", "hnsw", "inverted")


@pytest.fixture(scope="module")
def models(toy_folder, tmp_path_factory):
    """The model of each kind of index."""
    bert = toy_folder("bert")
    sparse = save_sparse_toy(bert, tmp_path_factory.mktemp("models") / "sparse")
    return {"flat": bert, "hnsw": bert, "inverted": sparse}


@pytest.fixture(scope="module")
def built(models, tmp_path_factory):
    """An index of the old documents per kind; not to be changed."""
    folder = tmp_path_factory.mktemp("indexes")
    corpus = write_corpus(folder / "old.jsonl", OLD)
    for kind in KINDS:
        call("index", models[kind], corpus, "-o", folder / kind, "--kind", kind)
    return folder


@pytest.fixture
def copy(built, tmp_path):
    """A function that gives an index of its own to change."""
    return lambda kind: shutil.copytree(built / kind, tmp_path / kind)


def scores_of(folder):
    """The score of each hit, per question."""
    pages = [call("search", folder, text, "-k", 100, "--json").stdout for text in QUESTIONS]
    return [{hit["id"]: hit["score"] for hit in json.loads(page)} for page in pages]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_built_anew(folder, models, kind, texts, tmp_path):
    """The index has the files and scores of one that is built from these documents."""
    corpus = write_corpus(tmp_path / "all.jsonl", texts)
    anew = tmp_path / "anew"
    call("index", models[kind], corpus, "-o", anew, "--kind", kind)
    assert contents(folder) == contents(anew), "all files are the same, bit for bit"
    assert scores_of(folder) == scores_of(anew)


@pytest.mark.parametrize("kind", KINDS)
def test_index_with_added_documents_is_one_built_anew(copy, models, tmp_path, kind):
    folder = copy(kind)
    printed = call("add", folder, write_corpus(tmp_path / "new.jsonl", NEW)).stdout
    assert printed.startswith(f"{folder}: 90 documents, {kind}")
    check_built_anew(folder, models, kind, TEXTS, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_index_without_deleted_documents_is_one_built_anew(copy, models, tmp_path, kind):
    folder, deleted_ids = copy(kind), [f"doc{row}" for row in (0, 7, 8, 30, 59)]
    printed = call("delete", folder, *deleted_ids).stdout
    assert printed.startswith(f"{folder}: 55 documents")
    kept_texts = {name: text for name, text in OLD.items() if name not in deleted_ids}
    check_built_anew(folder, models, kind, kept_texts, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_replaced_documents_come_last_and_have_their_new_texts(copy, models, tmp_path, kind):
    folder, replacing_texts = copy(kind), {"doc3": "another text", "doc61": "a new document"}
    corpus = write_corpus(tmp_path / "new.jsonl", replacing_texts)
    with pytest.raises(BadData, match="already has a document 'doc3'; .*--replace"):
        call("add", folder, corpus)
    call("add", folder, corpus, "--replace")
    kept_texts = {name: text for name, text in OLD.items() if name != "doc3"}
    check_built_anew(folder, models, kind, kept_texts | replacing_texts, tmp_path)


def test_vectors_of_former_documents_stay_bit_for_bit(built, copy, tmp_path):
    """They are written by another hand, so encoding them again would give others."""
    corpus = write_corpus(tmp_path / "new.jsonl", NEW)
    for kind, name in (("flat", "vectors.npy"), ("inverted", "weights.npy")):
        folder = copy(kind)
        opened = open_index(folder)
        rng = np.random.default_rng(3)
        array = np.load(folder / name)
        array[:] = rng.random(array.shape, np.float32)
        np.save(folder / name, array)
        change_record(folder, name)
        old_scores = vectors_by_id(folder)
        call("add", folder, corpus)
        call("delete", folder, "doc5")
        new_scores = vectors_by_id(folder)
        assert new_scores.keys() == (OLD | NEW).keys() - {"doc5"}
        assert opened.manifest.count == 60, "an open index keeps what it had"
        for document in OLD.keys() - {"doc5"}:
            assert new_scores[document] == old_scores[document]


def change_record(folder, name):
    """Writes the manifest for an altered file."""
    manifest = (DenseManifest if name == "vectors.npy" else SparseManifest).read(folder)
    files = manifest.files | describe_files(folder, [name])
    manifest.model_copy(update={"files": files}).write(folder)


def vectors_by_id(folder):
    """The bytes of each document's vector."""
    opened = open_index(folder)
    rows = range(opened.manifest.count)
    vectors = opened.vectors.rows if opened.UNIT == "text" else opened._vectors()
    return {opened.document(row).id: np.array(vectors[row]).tobytes() for row in rows}


def test_only_new_documents_are_encoded(copy, tmp_path, monkeypatch):
    texts = []
    encode_block = encode._encode_block

    def recorded(encoding, documents):
        texts.extend(document.text for document in documents)
        return encode_block(encoding, documents)

    monkeypatch.setattr(encode, "_encode_block", recorded)
    corpus = write_corpus(tmp_path / "new.jsonl", NEW)
    for kind in KINDS:
        call("add", copy(kind), corpus)
    assert texts == [*NEW.values()] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_refused_change_leaves_every_file_as_it_was(copy, toy_folder, tmp_path, kind):
    folder = copy(kind)
    files = contents(folder)
    empty, bad = tmp_path / "empty.jsonl", tmp_path / "bad.jsonl"
    empty.write_text("")
    bad.write_text(json.dumps({"_id": "new", "text": "a disk"}) + "\n{\n")
    corpus = write_corpus(tmp_path / "new.jsonl", NEW)
    with pytest.raises(BadData, match="no document 'doc98', 'doc99'; nothing was deleted"):
        call("delete", folder, "doc1", "doc99", "doc98")
    with pytest.raises(BadData, match="would have no documents left"):
        call("delete", folder, *OLD)
    with pytest.raises(BadData, match="no document with a text"):
        call("add", folder, empty)
    with pytest.raises(TooManyBadRows):
        call("add", folder, bad)
    with pytest.raises(BadModel, match="search with|other vectors"):
        call("add", folder, corpus, "--model", toy_folder("roberta"))
    with exclusive(folder), pytest.raises(BadFolder, match="being changed by another process"):
        call("add", folder, corpus)
    assert contents(folder) == files
    assert not list(tmp_path.glob(".*"))


def test_folder_with_other_files_is_not_changed(copy):
    folder = copy("flat")
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(BadFolder, match="other than an index, which is never removed"):
        call("delete", folder, "doc1")
    assert open_index(folder).manifest.count == 60


def test_failed_disk_is_reported_and_changes_nothing(copy, monkeypatch):
    folder = copy("inverted")
    files = contents(folder)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("trainer.retrieval.indexes.place.move_into_place", full)
    with pytest.raises(BadFolder, match="cannot be written"):
        call("delete", folder, "doc1")
    assert contents(folder) == files


def test_summary_counts_documents_that_are_left_out(copy, tmp_path):
    corpus = write_corpus(tmp_path / "new.jsonl", {"new": "a disk", "blank": " "})
    (summary,) = add_documents(copy("flat"), corpus)
    assert (summary.manifest.count, summary.left_out) == (61, {"blank documents": 1})
