import numpy as np
import pytest

from trainer.errors import BadFolder
from trainer.retrieval.token_index import codes as token_codes
from trainer.retrieval.token_index.codes import Codec, train
from trainer.retrieval.token_index.compress import centroid_count, code_bytes
from trainer.retrieval.token_index.manifest import Segment
from trainer.vectors.ragged import offsets_of
from trainer.vectors.tokens import TokenVectors


def clustered(count=6000, dimensions=32):
    """Vectors of length 1 around some centres, more spread in some directions than in others."""
    random = np.random.default_rng(7)
    spread = np.geomspace(1, 0.05, dimensions)
    vectors = random.normal(size=(40, dimensions))[
        random.integers(0, 40, count)
    ] + 0.7 * spread * random.normal(size=(count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def in_documents(vectors):
    """The vectors as documents of 1, 2, .. 9, 1, 2, .. tokens."""
    lengths = np.resize(np.arange(1, 10), len(vectors))
    offsets = np.minimum(offsets_of(lengths), len(vectors))
    return TokenVectors(vectors, offsets[: np.searchsorted(offsets, len(vectors)) + 1])


def trained(vectors, centroids, code_bytes):
    return train(vectors, in_documents(vectors), centroids, code_bytes)


def error(codec, documents):
    """Mean squared distance of what was decoded."""
    return float(
        np.square(
            codec.decode(codec.encode(documents), documents.lengths) - codec.rotate(documents.rows)
        )
        .sum(1)
        .mean()
    )


@pytest.fixture(scope="module")
def vectors():
    return clustered()


@pytest.fixture(scope="module")
def codec(vectors):
    return trained(vectors[:5000], 32, 7)


def test_rotation_keeps_dot_products_and_lengths(codec, vectors):
    some = vectors[:50]
    np.testing.assert_allclose(codec.rotate(some) @ codec.rotate(some).T, some @ some.T, atol=1e-5)


def test_rotation_has_a_place_for_every_direction(codec):
    assert codec.rotation.shape == (32, 35)
    np.testing.assert_allclose(codec.rotation @ codec.rotation.T, np.eye(32), atol=1e-5)
    assert (~codec.rotation.any(0)).sum() == 3


def test_ids_equal_those_of_an_exhaustive_search(codec, vectors):
    codes = codec.encode(in_documents(vectors[:200]))
    distances = np.square(codec.rotate(vectors[:200])[:, None] - codec.centroids).sum(-1)
    np.testing.assert_allclose(
        np.take_along_axis(distances, codes.ids[:, None].astype(np.int64), 1)[:, 0],
        distances.min(1),
        atol=1e-4,
    )
    assert (codes.ids.dtype, codes.residuals.dtype, codes.residuals.shape) == (
        np.uint16,
        np.uint8,
        (200, 7),
    )
    assert (codes.means.dtype, codes.means.shape) == (
        np.uint8,
        (len(in_documents(vectors[:200])), 7),
    )


def test_decoded_vector_is_centroid_mean_and_words_at_length_one(codec, vectors):
    documents = in_documents(vectors[:20])
    codes = codec.encode(documents)
    decoded = codec.decode(codes, documents.lengths)
    of_token = np.repeat(np.arange(len(documents)), documents.lengths)
    for row in range(20):
        wanted = codec.centroids[codes.ids[row]].astype(np.float64)
        for byte in range(7):
            part = slice(5 * byte, 5 * byte + 5)  # 32 numbers on 7 bytes: 35 places
            wanted[part] += (
                codec.books[byte, codes.residuals[row, byte]]
                + codec.books[byte, codes.means[of_token[row], byte]] / codec.spread
            )
        np.testing.assert_allclose(decoded[row], wanted / np.linalg.norm(wanted), atol=1e-5)


def test_codes_do_not_depend_on_the_block_size(codec, vectors, monkeypatch):
    documents = in_documents(vectors[:500])
    at_once = codec.encode(documents)
    monkeypatch.setattr(token_codes, "_TOKENS_AT_ONCE", 20)
    for some, others in zip(at_once, codec.encode(documents), strict=True):
        np.testing.assert_array_equal(some, others)


def test_more_bytes_decode_vectors_more_exactly(codec, vectors):
    new = in_documents(vectors[5000:])
    by_centroid = float(
        np.square(codec.centroids[codec.encode(new).ids] - codec.rotate(new.rows)).sum(1).mean()
    )
    finer = trained(vectors[:5000], 32, 15)
    coarser = trained(vectors[:5000], 32, 3)
    assert error(finer, new) < error(codec, new) < error(coarser, new) < by_centroid
    assert error(codec, new) < 0.3 * by_centroid


def test_mean_of_a_document_is_coded_once(vectors):
    random = np.random.default_rng(3)
    lengths = random.integers(20, 40, 200)
    common = (0.5 * random.normal(size=(200, 32)) / np.sqrt(32)).astype(np.float32)
    some = np.repeat(common, lengths, axis=0) + vectors[: lengths.sum()]
    documents = TokenVectors(
        some / np.linalg.norm(some, axis=1, keepdims=True), offsets_of(lengths)
    )
    order = random.permutation(len(some))
    mixed = TokenVectors(
        documents.rows[order], documents.offsets
    )  # the same vectors, and nothing in common
    assert error(train(some, documents, 32, 7), documents) < 0.9 * error(
        train(some, mixed, 32, 7), mixed
    )


def test_saved_codec_is_loaded(codec, vectors, tmp_path):
    codec.save(tmp_path)
    again = Codec.load(tmp_path, 32)
    documents = in_documents(vectors[:300])
    codes = codec.encode(documents)
    for some, others in zip(codes, again.encode(documents), strict=True):
        np.testing.assert_array_equal(some, others)
    np.testing.assert_array_equal(
        codec.decode(codes, documents.lengths), again.decode(codes, documents.lengths)
    )


@pytest.mark.parametrize(
    "change",
    [
        ("books.npy", np.zeros((6, 256, 5), np.float16)),
        ("rotation.npy", np.eye(32, 36)),
        ("centroids.npy", np.zeros(32)),
        ("spread.npy", np.float32(0)),
    ],
)
def test_files_of_different_codecs_are_refused(codec, tmp_path, change):
    codec.save(tmp_path)
    np.save(tmp_path / change[0], change[1])
    with pytest.raises(BadFolder, match="do not belong"):
        Codec.load(tmp_path, 32)
    (tmp_path / change[0]).write_bytes(b"nothing")
    with pytest.raises(BadFolder, match="cannot be read"):
        Codec.load(tmp_path, 32)


@pytest.mark.parametrize("count", [1, 2, 300])
def test_codec_is_trained_on_few_vectors(vectors, count):
    codec = trained(vectors[:count], centroid_count(count), 7)
    assert error(codec, in_documents(vectors[:count])) < (0.02 if count <= 256 else 0.05)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("tokens", [200_000, 5_000_000])
def test_codes_with_overhead_keep_to_the_bits(bits, tokens):
    segment, centroids = (
        Segment(number=1, documents=tokens // 60, tokens=tokens),
        centroid_count(tokens),
    )
    size = code_bytes(segment, 128, bits, centroids)
    places = size * -(-128 // size)
    shared = 2 * 128 * centroids + 4 * 128 * places + 2 * 256 * places
    used = tokens * (2 + size) + shared + (4 + size) * segment.documents
    assert 0.9 < used / (tokens * 128 * bits / 8) <= 1
