"""`nearfar encode` as a person calls it, in one process to be quick."""

import io

import numpy as np
import pytest
import scipy.sparse
from encoded import encode as vectors_of
from sentence_transformers import SparseEncoder
from toy_models import save_sparse_toy
from verbs import command_caller

from trainer.cli.encode import encode
from trainer.cli.search import search
from trainer.errors import BadData, BadModel
from trainer.models.cut import read_cut
from trainer.models.dense import read_encoder

call = command_caller(encode, search)  # one verb alone would have no name

TEXTS = ["delete a disk", "create a storage account", "show every query of the database"]


@pytest.fixture(scope="module")
def model(toy_folder):
    return toy_folder("bert")


@pytest.fixture(scope="module")
def sparse_model(toy_folder, tmp_path_factory):
    """A sparse model whose queries come from a table."""
    folder = tmp_path_factory.mktemp("sparse") / "model"
    return save_sparse_toy(toy_folder("bert"), folder, query_table="frozen")


@pytest.mark.parametrize("role", ["document", "query"])
def test_encode_writes_numpy(model, role):
    page = call(
        "encode",
        model,
        "--as",
        role,
        "--precision",
        "fp32",
        stdin="\n".join(TEXTS).encode() + b"\r\n",
    )
    assert page.exit_code == 0
    vectors = np.load(io.BytesIO(page.stdout_bytes), allow_pickle=False)
    np.testing.assert_allclose(
        vectors, vectors_of(read_encoder(str(model)), TEXTS, role), atol=1e-6
    )
    assert "3 vectors of 32 dimensions" in page.stderr


def test_encode_writes_a_file_in_parts(model, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.retrieval.encoding.encode_file._TEXTS_AT_ONCE", 2)
    call("encode", model, "-o", tmp_path / "v.npy", stdin="\n".join(TEXTS).encode())
    assert np.load(tmp_path / "v.npy").shape == (3, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


@pytest.mark.parametrize("role", ["document", "query"])
def test_encode_writes_a_matrix_of_scipy_for_a_sparse_model(
    sparse_model, tmp_path, monkeypatch, role
):
    file = tmp_path / "v.npz"
    monkeypatch.setattr("trainer.retrieval.encoding.encode_file._TEXTS_AT_ONCE", 2)
    stdin = "\n".join(TEXTS).encode()
    answer = call("encode", sparse_model, "--as", role, stdin=stdin)
    call("encode", sparse_model, "--as", role, "-o", file, stdin=stdin)
    theirs = SparseEncoder(str(sparse_model))
    encode_theirs = theirs.encode_query if role == "query" else theirs.encode_document
    expected = encode_theirs(TEXTS).to_dense().numpy()
    assert (expected > 0).any(1).all()
    for source in (io.BytesIO(answer.stdout_bytes), file):
        matrix = scipy.sparse.load_npz(source)
        assert (matrix.format, matrix.dtype, matrix.shape) == ("csr", np.float32, expected.shape)
        matrix.check_format(full_check=True)
        assert matrix.has_canonical_format
        assert matrix.nnz == (expected > 0).sum()
        np.testing.assert_allclose(matrix.toarray(), expected, atol=1e-4, rtol=1e-4)
    ours = tmp_path / "ours.npz"
    scipy.sparse.save_npz(ours, matrix)
    with np.load(ours) as scipys, np.load(file) as written:
        assert {name: array.dtype for name, array in written.items()} == {
            name: array.dtype for name, array in scipys.items()
        }


def test_encode_refuses_dimensions_of_a_sparse_model(sparse_model):
    with pytest.raises(BadModel, match="leave out --dimensions"):
        call("encode", sparse_model, "--dimensions", 8, stdin=b"a disk")


@pytest.mark.parametrize(
    ("stdin", "message"),
    [(b"one\n \nthree\n", "line 2 .* blank"), (b"one\n\xff\n", "line 2 .* UTF-8"), (b"", "empty")],
)
def test_encode_names_a_line_that_it_cannot_read(model, tmp_path, stdin, message):
    with pytest.raises(BadData, match=message):
        call("encode", model, "-o", tmp_path / "v.npy", stdin=stdin)
    assert list(tmp_path.iterdir()) == []


def test_encode_refuses_a_terminal(model, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(BadData, match=r"> vectors\.npy"):
        encode(str(model))


def test_encode_uses_the_first_layers(model):
    page = call("encode", model, "--layers", 1, "--dimensions", 10, stdin="\n".join(TEXTS).encode())
    vectors = np.load(io.BytesIO(page.stdout_bytes), allow_pickle=False)
    np.testing.assert_allclose(
        vectors, vectors_of(read_cut(str(model), 1, 10), TEXTS, "document"), atol=1e-6
    )
    assert (
        np.abs(vectors - vectors_of(read_cut(str(model), None, 10), TEXTS, "document")).max() > 0.1
    )
