import json
import shutil

import numpy as np
import pytest
import torch
from encoded import encode
from phases import Phases
from verbs import change_manifest

from trainer.data.readers.corpus import Document
from trainer.errors import BadData, BadFolder, BadModel
from trainer.models.dense import read_encoder
from trainer.progress import listening
from trainer.retrieval.encoding.encode import Encoding
from trainer.retrieval.indexes.dense import DenseIndex, build_dense_index
from trainer.retrieval.indexes.manifest import FILES, MANIFEST, DenseManifest, describe_files
from trainer.retrieval.indexes.searcher import hits
from trainer.storage.atomic import move_into_place

WORDS = (
    "disk",
    "storage",
    "account",
    "query",
    "database",
    "machine",
    "list",
    "region",
    "delete",
    "create",
)
QUESTIONS = ["delete a disk", "storage account", "list every database"]
DOCUMENTS = [
    Document(
        f"id{row}",
        f"{WORDS[row % 10]} é" if row % 3 else "",
        f"{WORDS[row // 10 % 10]} {WORDS[row // 100]} {WORDS[row % 7]}",
    )
    for row in range(400)
]


@pytest.fixture(scope="module")
def encoder(toy_folder):
    return read_encoder(str(toy_folder("bert")))


@pytest.fixture(scope="module")
def built(encoder, tmp_path_factory):
    """An index of each kind; not to be changed."""
    folder = tmp_path_factory.mktemp("indexes")
    for kind in ("flat", "hnsw", "ivf"):
        build_dense_index(Encoding(encoder), "toy", iter(DOCUMENTS), folder / kind, kind)
    return folder


@pytest.fixture
def copy(built, tmp_path):
    """A flat index of its own to damage."""
    return shutil.copytree(built / "flat", tmp_path / "copy")


def rows_by_sorting(queries, documents, k):
    return np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :k]


def questions(encoder):
    return encode(encoder, QUESTIONS, "query")


def test_flat_index_is_exact_and_returns_the_documents(encoder, built):
    index = DenseIndex.open(built / "flat")
    queries, vectors = (
        questions(encoder),
        encode(encoder, [document.full_text for document in DOCUMENTS], "document"),
    )
    np.testing.assert_array_equal(index.search(queries, 7)[1], rows_by_sorting(queries, vectors, 7))
    best = hits(index, encoder, QUESTIONS[:1], 5)[0]
    assert [hit.document for hit in best] == [
        DOCUMENTS[row] for row in rows_by_sorting(queries[:1], vectors, 5)[0]
    ]
    assert [hit.score for hit in best] == sorted((hit.score for hit in best), reverse=True)
    assert [index.document(row) for row in (0, 1, 399)] == [DOCUMENTS[row] for row in (0, 1, 399)]


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_approximate_indexes_find_most_and_report_their_recall(encoder, built, kind):
    index, exact = DenseIndex.open(built / kind), DenseIndex.open(built / "flat")
    assert index.manifest.approximate["recall_at_10"] >= 0.95
    queries = encode(
        encoder, [document.full_text for document in DOCUMENTS[::4]], "query"
    )  # many: of three, one missed would be a third
    scores, _ = index.search(queries, 10)
    wanted, _ = exact.search(queries, 10)
    assert np.isclose(scores, wanted, atol=1e-5).mean() > 0.8
    assert len(hits(index, encoder, QUESTIONS[:1], 1000)[0]) <= 400


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_very_small_corpora_are_indexed(encoder, tmp_path, kind, count, capfd):
    build_dense_index(Encoding(encoder), "toy", DOCUMENTS[:count], tmp_path / "idx", kind)
    (best,) = hits(DenseIndex.open(tmp_path / "idx"), encoder, QUESTIONS[:1], 5)
    assert len({hit.document.id for hit in best}) == min(count, 5)
    assert capfd.readouterr() == ("", "")


def test_corpus_is_encoded_in_parts(encoder, built, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.retrieval.encoding.encode._MOST_DOCUMENTS", 150)
    phases = Phases()
    with listening(phases):
        build_dense_index(Encoding(encoder), "toy", DOCUMENTS, tmp_path / "idx")
    assert ("encoding documents", 400, 400) in phases.finished
    np.testing.assert_allclose(
        np.load(tmp_path / "idx" / "vectors.npy"),
        np.load(built / "flat" / "vectors.npy"),
        atol=1e-6,
    )


def test_failed_build_leaves_no_files(encoder, tmp_path):
    def broken():
        yield DOCUMENTS[0]
        raise BadData("line 2 is bad")

    with pytest.raises(BadData, match="line 2"):
        build_dense_index(Encoding(encoder), "toy", broken(), tmp_path / "idx")
    with pytest.raises(BadData, match="no document"):
        build_dense_index(Encoding(encoder), "toy", [], tmp_path / "idx")
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_replaced_only_if_it_is_an_index(encoder, copy):
    with pytest.raises(BadFolder, match="--replace"):
        build_dense_index(Encoding(encoder), "toy", DOCUMENTS[:3], copy)
    assert DenseIndex.open(copy).manifest.count == 400
    build_dense_index(Encoding(encoder), "toy", DOCUMENTS[:3], copy, replace=True)
    assert DenseIndex.open(copy).manifest.count == 3
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    (copy / "thesis.txt").write_text("years of work")
    with pytest.raises(BadFolder, match="something other than an index"):
        build_dense_index(Encoding(encoder), "toy", DOCUMENTS[:3], copy, replace=True)
    assert (copy / "thesis.txt").read_text() == "years of work"


def test_failed_replacement_keeps_the_former_index(encoder, copy):
    with pytest.raises(BadData):
        build_dense_index(Encoding(encoder), "toy", [], copy, replace=True)
    assert DenseIndex.open(copy).manifest.count == 400


def test_index_replaced_while_it_is_opened_is_consistent(encoder, built, copy, monkeypatch):
    """Between the manifest and the first of the other files."""
    other, check = copy.parent / "other", DenseManifest.check_files
    build_dense_index(Encoding(encoder), "toy", DOCUMENTS[:3], other)

    def replacing(manifest, folder):
        if other.exists():
            move_into_place(other, folder)
            shutil.rmtree(other)
        check(manifest, folder)

    monkeypatch.setattr(DenseManifest, "check_files", replacing)
    assert DenseIndex.open(copy).manifest.count == 3


@pytest.mark.parametrize("name", [name for name in FILES if name != "index.faiss"])
def test_truncated_changed_and_missing_files_are_named(copy, name):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-3])
    with pytest.raises(
        BadFolder, match=f"{name} has {len(whole) - 3} bytes instead of {len(whole)}"
    ):
        DenseIndex.open(copy)
    (copy / name).write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(BadFolder, match=f"{name} was altered"):
        DenseIndex.open(copy)
    (copy / name).unlink()
    with pytest.raises(BadFolder, match=f"{name} is missing"):
        DenseIndex.open(copy)


def test_changed_byte_at_either_end_of_a_large_file_is_noticed(copy, monkeypatch):
    """With blocks of 8 bytes, every file here counts as large."""
    from trainer.retrieval.indexes import manifest

    monkeypatch.setattr("trainer.storage.manifest._BLOCK", 8)
    path = copy / "vectors.npy"
    whole, before = path.read_bytes(), manifest._fingerprint(path)
    for place in (0, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert manifest._fingerprint(path) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"count": "400"}, "damaged"),
        ({"dimensions": 0}, "damaged"),
        ({"kind": "hnsw"}, "does not list the files"),
        ({"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}, "does not list the files"),
        ({"loader": "os.system"}, "damaged"),
        ({"count": 399}, "the manifest says"),
    ],
)
def test_contradicting_manifest_is_refused(copy, change, message):
    change_manifest(copy, **change)
    with pytest.raises(BadFolder, match=message):
        DenseIndex.open(copy)


def test_changed_manifest_is_refused(copy):
    """Also where what it says then could be true."""
    content = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(content | {"model": "another"}))
    with pytest.raises(BadFolder, match=r"manifest\.json was altered since the index was built"):
        DenseIndex.open(copy)


def test_folder_that_is_no_index_is_refused(tmp_path):
    with pytest.raises(BadFolder, match="nearfar index"):
        DenseIndex.open(tmp_path)
    (tmp_path / MANIFEST).write_text("[1")
    with pytest.raises(BadFolder, match="damaged"):
        DenseIndex.open(tmp_path)


def test_foreign_faiss_index_is_refused(encoder, built, tmp_path):
    """Files and manifest agree with each other and not with the kind."""
    folder = shutil.copytree(built / "ivf", tmp_path / "copy")
    shutil.copy(built / "hnsw" / "index.faiss", folder)
    files, of_hnsw = (
        json.loads((built / kind / MANIFEST).read_text())["files"] for kind in ("ivf", "hnsw")
    )
    change_manifest(folder, files=files | {"index.faiss": of_hnsw["index.faiss"]})
    with pytest.raises(BadFolder, match="another FAISS index"):
        DenseIndex.open(folder)


def test_pickled_arrays_are_refused(copy):
    np.save(copy / "probe.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    change_manifest(
        copy, files={name: record.model_dump() for name, record in describe_files(copy).items()}
    )
    with pytest.raises(BadFolder, match=r"probe\.npy cannot be read"):
        DenseIndex.open(copy)


def test_other_model_is_refused_but_lower_precision_is_not(encoder, toy_folder, built):
    index = DenseIndex.open(built / "flat")
    index.fit_encoder(encoder)
    with torch.autocast("cpu", torch.bfloat16):
        index.fit_encoder(encoder)
    with pytest.raises(BadModel, match=r"other vectors.*search with toy"):
        index.fit_encoder(read_encoder(str(toy_folder("distilbert"))))
    with pytest.raises(BadModel, match="have 5 dimensions"):
        index.search(np.ones((1, 5), np.float32), 3)
