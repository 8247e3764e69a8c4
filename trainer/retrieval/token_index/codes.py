"""Codes of token vectors: a centroid, a mean per document, and a product code per token.

They follow ColBERTv2 (Santhanam et al. 2022), with two differences. With 2 bits per component, an
index takes 1/8 of float16, overhead included.

- ColBERTv2 rounds each component of a residual to 2 bits, which leaves no space for the numbers of
  centroids. Here, one byte stands for several components, by a product quantizer (Jegou et al.
  2011). It has a smaller error for the same bytes. A byte stands for more components if they vary
  little.
- The tokens of a document lie on the same side of their centroids. So the mean residual of a
  document is encoded once, by the same code books, and the codes of tokens hold the rest. This
  saves 1/8 to 1/5 of the error for one byte in a hundred.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8, UInt16

from trainer.errors import BadFolder
from trainer.retrieval.indexes.manifest import CODEC_FILES, readable
from trainer.storage.atomic import write_array
from trainer.vectors.ragged import document_ranges
from trainer.vectors.tokens import TokenVectors

MAX_CENTROIDS = 1 << 16
_WORDS = 256
_POINTS_PER_CENTROID = 48
_ROUNDS = 8
_TOKENS_AT_ONCE = 1 << 16
_PRODUCTS_AT_ONCE = 1 << 20


class Codes(NamedTuple):
    """The codes of the vectors of some documents."""

    ids: UInt16[np.ndarray, " token"]
    """The number of the nearest centroid."""
    residuals: UInt8[np.ndarray, "token byte"]
    means: UInt8[np.ndarray, "document byte"]
    """The code of the mean residual per document."""


@dataclass(frozen=True)
class Codec:
    """Encodes token vectors of length 1 into codes, and decodes them.

    Vectors are rotated first, into the number of places that the bytes have; some places are zero.
    """

    centroids: Float32[np.ndarray, "centroid place"]
    """Rotated."""
    rotation: Float32[np.ndarray, "dimension place"]
    books: Float32[np.ndarray, "byte word part"]
    spread: float
    """The ratio of the spread of residuals to that of document means, which are multiplied by it
    before they are encoded.
    """

    @property
    def code_bytes(self) -> int:
        """The number of bytes per residual."""
        return len(self.books)

    def rotate(
        self, vectors: Float[np.ndarray, "*row dimension"]
    ) -> Float32[np.ndarray, "*row place"]:
        """Returns rotated vectors; dot products with decoded vectors stay the same."""
        return vectors.astype(np.float32) @ self.rotation

    def encode(self, documents: TokenVectors) -> Codes:
        """Returns the codes of documents, each of which must have a token."""
        ids = np.empty(len(documents.rows), np.uint16)
        residuals, means = (
            np.empty((count, self.code_bytes), np.uint8) for count in (len(ids), len(documents))
        )
        for first, last in document_ranges(documents.offsets, _TOKENS_AT_ONCE):
            tokens = slice(documents.offsets[first], documents.offsets[last])
            offsets = documents.offsets[first : last + 1] - documents.offsets[first]
            remainders = self.rotate(documents.rows[tokens])
            ids[tokens] = _nearest(remainders, self.centroids)
            remainders -= self.centroids[ids[tokens]]
            means[first:last] = self._words(self.spread * _means(remainders, offsets))
            remainders -= np.repeat(self.decode_means(means[first:last]), np.diff(offsets), axis=0)
            residuals[tokens] = self._words(remainders)
        return Codes(ids, residuals, means)

    def decode(
        self, codes: Codes, lengths: Int64[np.ndarray, " document"]
    ) -> Float32[np.ndarray, "token place"]:
        """Returns the rotated vectors approximately, with length 1."""
        vectors = self._decode_words(codes.residuals)
        vectors += self.centroids[codes.ids]
        vectors += np.repeat(self.decode_means(codes.means), lengths, axis=0)
        vectors /= np.sqrt(np.einsum("td,td->t", vectors, vectors))[:, None].clip(min=1e-12)
        return vectors

    def decode_means(
        self, means: UInt8[np.ndarray, "document byte"]
    ) -> Float32[np.ndarray, "document place"]:
        """Returns the means of documents' residuals approximately, rotated."""
        return self._decode_words(means) / np.float32(self.spread)

    def save(self, folder: Path) -> None:
        """Writes the files of the codec; centroids and books are in float16."""
        centroids = (self.centroids @ self.rotation.T).astype(np.float16)
        write_array(folder / "centroids.npy", centroids)
        write_array(folder / "rotation.npy", self.rotation)
        write_array(folder / "books.npy", self.books.astype(np.float16))
        write_array(folder / "spread.npy", np.float32(self.spread))

    @classmethod
    def load(cls, folder: Path, dimensions: int) -> Self:
        """Reads the codec in `folder`. Raises BadFolder when its files do not belong together."""
        arrays = []
        try:
            for name in CODEC_FILES:
                with readable(folder / name):
                    arrays.append(np.load(folder / name, allow_pickle=False))
        except ValueError as error:
            raise BadFolder(
                f"{folder}: the codec of the index cannot be read ({error}); build the index again"
            ) from error
        centroids, rotation, books, spread = arrays
        fits = (
            centroids.ndim == 2
            and len(centroids) <= MAX_CENTROIDS
            and books.ndim == 3
            and books.shape[1] == _WORDS
        )
        fits = fits and spread.shape == () and bool(0 < spread < np.inf)
        if (
            not fits
            or centroids.shape[1] != dimensions
            or rotation.shape != (dimensions, books.shape[0] * books.shape[2])
        ):
            raise BadFolder(
                f"{folder}: the files of the codec do not belong to an index of {dimensions}"
                " dimensions; build the index again"
            )
        return cls(
            centroids.astype(np.float32) @ rotation,
            rotation,
            books.astype(np.float32),
            float(spread),
        )

    def _words(self, vectors: Float32[np.ndarray, "row place"]) -> UInt8[np.ndarray, "row byte"]:
        """Returns the nearest word of the book for each part of each vector."""
        parts = np.ascontiguousarray(
            vectors.reshape(len(vectors), *self.books.shape[::2]).swapaxes(0, 1)
        )
        return np.stack(
            [_nearest(part, book) for part, book in zip(parts, self.books, strict=True)], axis=1
        ).astype(np.uint8)

    def _decode_words(
        self, codes: UInt8[np.ndarray, "row byte"]
    ) -> Float32[np.ndarray, "row place"]:
        vectors: Float32[np.ndarray, "row place"] = self._quantizer.decode(
            np.ascontiguousarray(codes)
        )
        return vectors

    @cached_property
    def _quantizer(self) -> Any:
        import faiss

        byte, _, part = self.books.shape
        quantizer = faiss.ProductQuantizer(byte * part, byte, 8)
        faiss.copy_array_to_vector(self.books.ravel(), quantizer.centroids)
        return quantizer


def train(
    vectors: Float32[np.ndarray, "token dimension"],
    documents: TokenVectors,
    centroids: int,
    code_bytes: int,
) -> Codec:
    """Trains a codec with `centroids` centroids and `code_bytes` bytes per residual.

    K-means on a sample of `vectors` gives the centroids. Then residuals of `documents` without
    their means are rotated to their principal directions, which are distributed so that all bytes
    have equal information (after Ge et al. 2013, section 3.2.2). K-means gives the words of each
    byte.
    """
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1],
        centroids,
        niter=_ROUNDS,
        seed=13,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_CENTROID,
    )
    kmeans.train(vectors)
    assert kmeans.centroids is not None
    # Centroids are rounded as on disk, so that vectors are encoded and decoded with equal numbers.
    stored_centroids = kmeans.centroids.astype(np.float16).astype(np.float32)
    remainders = documents.rows.astype(np.float32)
    remainders -= stored_centroids[_nearest(remainders, stored_centroids)]
    means = _means(remainders, documents.offsets)
    remainders -= np.repeat(means, documents.lengths, axis=0)
    mean_square = np.square(means).sum(1).mean().clip(min=1e-12)
    spread = float(np.sqrt(np.square(remainders).sum(1).mean() / mean_square).clip(1))
    remainders = np.concatenate([remainders, spread * means])
    # Vectors are repeated if there are few: a book needs 256.
    remainders = np.resize(remainders, (max(len(remainders), _WORDS), remainders.shape[1]))
    rotation = _rotation(remainders, code_bytes)
    quantizer = faiss.ProductQuantizer(rotation.shape[1], code_bytes, 8)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(np.ascontiguousarray(remainders @ rotation))
    books = faiss.vector_to_array(quantizer.centroids).reshape(code_bytes, _WORDS, -1)
    return Codec(
        stored_centroids @ rotation, rotation, books.astype(np.float16).astype(np.float32), spread
    )


def _means(
    vectors: Float32[np.ndarray, "token dimension"],
    offsets: Int64[np.ndarray, " document_plus_one"],
) -> Float32[np.ndarray, "document dimension"]:
    return np.add.reduceat(vectors, offsets[:-1], axis=0) / np.diff(offsets)[:, None].astype(
        np.float32
    )


def _nearest(
    vectors: Float32[np.ndarray, "row place"], points: Float32[np.ndarray, "point place"]
) -> Int64[np.ndarray, " row"]:
    """Returns the number of the nearest point per vector.

    It uses ||v - p||^2 = ||v||^2 - 2 (v . p - ||p||^2 / 2). FAISS takes several times as long.

    >>> _nearest(np.float32([[0.9, 0.2], [-2, 0]]), np.float32([[0, 0], [1, 0], [-1, 0]])).tolist()
    [1, 2]
    """
    vector_tensor, point_tensor = torch.from_numpy(vectors), torch.from_numpy(points)
    halves = -point_tensor.square().sum(1) / 2
    step = max(1, _PRODUCTS_AT_ONCE // len(points))
    numbers = np.empty(len(vectors), np.int64)
    buffer = torch.empty(min(step, len(vectors)), len(points))
    for start in range(0, len(vectors), step):
        block = vector_tensor[start : start + step]
        numbers[start : start + step] = (
            torch.addmm(halves, block, point_tensor.T, out=buffer[: len(block)]).numpy().argmax(1)
        )  # PyTorch's takes twice as long
    return numbers


def _rotation(
    residuals: Float32[np.ndarray, "token dimension"], code_bytes: int
) -> Float32[np.ndarray, "dimension place"]:
    """Returns the principal directions as columns, distributed over the bytes.

    The products of variances per byte are about equal; other columns are zero.
    """
    variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(residuals.T.astype(np.float64))))
    part = -(-len(variances) // code_bytes)
    share = (
        np.log(variances.clip(min=1e-12) / variances.clip(min=1e-12).min()) + 0.1
    )  # positive: who has more directions has more to say
    rotation = np.zeros((len(variances), code_bytes * part), np.float32)
    counts, sums = np.zeros(code_bytes, np.int64), np.zeros(code_bytes)
    for direction in np.argsort(-variances):
        byte = int(np.where(counts < part, sums, np.inf).argmin())
        rotation[:, byte * part + counts[byte]] = directions[:, direction]
        counts[byte] += 1
        sums[byte] += share[direction]
    return rotation
