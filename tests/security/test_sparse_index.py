"""Index folders of sparse vectors that attack: whole and consistent files with hostile content."""

import pickle

import numpy as np
import pytest
from toy_models import masked_lm
from verbs import change_manifest

from trainer.data.readers.corpus import Document
from trainer.errors import BadFolder
from trainer.models.sparse import SparseSettings, build_sparse_encoder
from trainer.retrieval.changes.change import delete_documents
from trainer.retrieval.encoding.encode import Encoding, encode_queries
from trainer.retrieval.indexes.manifest import SPARSE_FILES, describe_files
from trainer.retrieval.indexes.sparse import SparseIndex, build_sparse_index


@pytest.fixture(scope="module")
def encoder(toy_folder):
    settings = SparseSettings(backbone=str(masked_lm(toy_folder("bert"))))
    return build_sparse_encoder(settings).eval()


@pytest.fixture
def victim(encoder, tmp_path):
    """An index of three documents, to be spoiled."""
    documents = [Document(f"d{row}", "", "delete a disk " * (row + 1)) for row in range(3)]
    build_sparse_index(Encoding(encoder), "toy", documents, tmp_path / "victim")
    return tmp_path / "victim"


def replace(victim, name, array):
    """The file has another content, and the manifest agrees."""
    np.save(victim / name, array, allow_pickle=True)
    records = describe_files(victim, SPARSE_FILES)
    change_manifest(victim, files={file: record.model_dump() for file, record in records.items()})


def search(victim, encoder):
    SparseIndex.open(victim).nearest(encode_queries(encoder, ["delete a disk"]), 3)


def test_victim_is_a_good_index(victim, encoder):
    search(victim, encoder)
    replace(victim, "rows.npy", np.load(victim / "rows.npy"))
    search(victim, encoder)


@pytest.mark.parametrize("row", [3, 2**32 - 1])
def test_row_behind_the_last_document_is_refused(victim, encoder, row):
    """It would be read outside of the scores, or an array of 32 GB would be made for it."""
    replace(victim, "rows.npy", np.full_like(np.load(victim / "rows.npy"), row))
    for action in (lambda: search(victim, encoder), lambda: delete_documents(victim, ["d0"])):
        with pytest.raises(BadFolder, match=r"rows\.npy names a document that the index lacks"):
            action()


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf])
def test_weight_that_is_not_finite_is_refused(victim, encoder, weight):
    replace(victim, "weights.npy", np.full_like(np.load(victim / "weights.npy"), weight))
    with pytest.raises(BadFolder, match=r"weights\.npy has weights that are not finite"):
        search(victim, encoder)


@pytest.mark.parametrize("place", [0, 5, -1])
def test_list_outside_of_the_file_is_refused(victim, place):
    for start in (-(2**62), 2**62):
        starts = np.load(victim / "starts.npy")
        starts[place] = start
        replace(victim, "starts.npy", starts)
        with pytest.raises(BadFolder, match=r"starts\.npy has lists that do not follow each other"):
            SparseIndex.open(victim)


@pytest.mark.parametrize("name", ["starts.npy", "rows.npy", "weights.npy", "probe.npy"])
def test_arrays_of_other_numbers_or_pickles_are_refused(victim, tmp_path, name):
    array = np.load(victim / name)
    for wrong in (array.astype(np.float64), array[:-1], array[None]):
        replace(victim, name, wrong)
        with pytest.raises(BadFolder, match=f"{name} holds"):
            SparseIndex.open(victim)

    class Bomb:
        def __reduce__(self):
            return type(tmp_path).touch, (tmp_path / "marker",)

    replace(victim, name, np.array([Bomb()], dtype=object))
    with pytest.raises(BadFolder, match=f"{name} cannot be read"):
        SparseIndex.open(victim)
    assert not (tmp_path / "marker").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "marker").exists(), "the bomb is live"


@pytest.mark.parametrize(
    "change",
    [
        {"count": 10**15},
        {"dimensions": 10**15},
        {"terms": 10**15},
        {"terms": -1},
        {"kind": "flat"},
        {"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"loader": "os.system"},
    ],
)
def test_manifest_that_contradicts_the_files_is_refused(victim, change):
    change_manifest(victim, **change)
    with pytest.raises(BadFolder):
        SparseIndex.open(victim)


def test_link_to_a_file_outside_is_refused(victim, tmp_path):
    (victim / "weights.npy").rename(tmp_path / "weights.npy")
    (victim / "weights.npy").symlink_to(tmp_path / "weights.npy")
    with pytest.raises(BadFolder, match=r"weights\.npy is missing"):
        SparseIndex.open(victim)
