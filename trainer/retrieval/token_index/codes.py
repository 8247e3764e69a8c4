"""Token vectors in a few bytes each: a centroid, what the tokens of one document have in common
beside it, and the rest in a product code.

After ColBERTv2 (Santhanam et al. 2022), with two differences that bring everything a search needs
to 1/8 of float16 at 2 bits a number.

- ColBERTv2 rounds each number of the residual by itself to 2 bits, which fills the eighth alone and
  leaves nothing for the centroids' numbers.
  Here a byte stands for several numbers together, by a product quantizer (Jegou et al. 2011), which
  is nearer for the same bytes; numbers that
  vary little share a byte with more others than those that vary much.
- The tokens of a document are about one thing, and lie on the same side of their centroids. The
  mean of a document's residuals is coded once
  for all its tokens, by the same code books, and a token's code stands for what is left: an eighth
  to a fifth less to code, for a byte in
  a hundred.
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
from trainer.vectors.ragged import document_ranges
from trainer.vectors.tokens import TokenVectors

MOST_CENTROIDS = 1 << 16
_WORDS = 256
_POINTS_A_CENTROID = 48
_ROUNDS = 8
_TOKENS_AT_ONCE = 1 << 16
_PRODUCTS_AT_ONCE = 1 << 20


class Codes(NamedTuple):
    """What stands for the vectors of some documents."""

    ids: UInt16[np.ndarray, " token"]
    """The number of the nearest centroid."""
    residuals: UInt8[np.ndarray, "token byte"]
    means: UInt8[np.ndarray, "document byte"]
    """Of each document's residuals."""


@dataclass(frozen=True)
class Codec:
    """Between token vectors of length 1 and their codes. Vectors are rotated first, into as many
    places as the bytes have, some of them always zero.
    """

    centroids: Float32[np.ndarray, "centroid place"]
    """Rotated."""
    rotation: Float32[np.ndarray, "dimension place"]
    books: Float32[np.ndarray, "byte word part"]
    spread: float
    """How many times as far apart the residuals of tokens are as the means of documents: these are
    multiplied by it before they are coded.
    """

    @property
    def code_bytes(self) -> int:
        """Bytes of a residual."""
        return len(self.books)

    def rotate(
        self, vectors: Float[np.ndarray, "*row dimension"]
    ) -> Float32[np.ndarray, "*row place"]:
        """Vectors as they stand to decoded ones: dot products are those of before."""
        return vectors.astype(np.float32) @ self.rotation

    def encode(self, documents: TokenVectors) -> Codes:
        """The codes of documents; none may be without a token."""
        ids = np.empty(len(documents.rows), np.uint16)
        residuals, means = (
            np.empty((count, self.code_bytes), np.uint8) for count in (len(ids), len(documents))
        )
        for first, last in document_ranges(documents.offsets, _TOKENS_AT_ONCE):
            tokens = slice(documents.offsets[first], documents.offsets[last])
            offsets = documents.offsets[first : last + 1] - documents.offsets[first]
            left = self.rotate(documents.rows[tokens])
            ids[tokens] = _nearest(left, self.centroids)
            left -= self.centroids[ids[tokens]]
            means[first:last] = self._words(self.spread * _means(left, offsets))
            left -= np.repeat(self.decode_means(means[first:last]), np.diff(offsets), axis=0)
            residuals[tokens] = self._words(left)
        return Codes(ids, residuals, means)

    def decode(
        self, codes: Codes, lengths: Int64[np.ndarray, " document"]
    ) -> Float32[np.ndarray, "token place"]:
        """The rotated vectors, nearly; of length 1."""
        vectors = self._decoded(codes.residuals)
        vectors += self.centroids[codes.ids]
        vectors += np.repeat(self.decode_means(codes.means), lengths, axis=0)
        vectors /= np.sqrt(np.einsum("td,td->t", vectors, vectors))[:, None].clip(min=1e-12)
        return vectors

    def decode_means(
        self, means: UInt8[np.ndarray, "document byte"]
    ) -> Float32[np.ndarray, "document place"]:
        """The means of documents' residuals, nearly; rotated."""
        return self._decoded(means) / np.float32(self.spread)

    def save(self, folder: Path) -> None:
        """Writes its files into `folder`; centroids and books in float16."""
        np.save(
            folder / "centroids.npy",
            (self.centroids @ self.rotation.T).astype(np.float16),
            allow_pickle=False,
        )
        np.save(folder / "rotation.npy", self.rotation, allow_pickle=False)
        np.save(folder / "books.npy", self.books.astype(np.float16), allow_pickle=False)
        np.save(folder / "spread.npy", np.float32(self.spread), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, dimensions: int) -> Self:
        """The codec in `folder`. Raises BadFolder when its files do not belong together."""
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
            and len(centroids) <= MOST_CENTROIDS
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
        """Of each part of each vector, the nearest word of its book."""
        parts = np.ascontiguousarray(
            vectors.reshape(len(vectors), *self.books.shape[::2]).swapaxes(0, 1)
        )
        return np.stack(
            [_nearest(part, book) for part, book in zip(parts, self.books, strict=True)], axis=1
        ).astype(np.uint8)

    def _decoded(self, codes: UInt8[np.ndarray, "row byte"]) -> Float32[np.ndarray, "row place"]:
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
    """A codec of `centroids` learned from a sample of token vectors, with `code_bytes` bytes for a
    residual learned from some whole `documents`.

    Centroids by k-means; then a rotation onto the principal directions of the residuals beside
    their documents' means, dealt out so that the bytes have equally much to say (after Ge et al.
    2013, section 3.2.2); then the words of each byte by k-means.
    """
    import faiss

    found = faiss.Kmeans(
        vectors.shape[1],
        centroids,
        niter=_ROUNDS,
        seed=13,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_A_CENTROID,
    )
    found.train(vectors)
    assert found.centroids is not None
    # Rounded as they will be read, so that codes are made with the numbers they are read with.
    rounded = found.centroids.astype(np.float16).astype(np.float32)
    left = documents.rows.astype(np.float32)
    left -= rounded[_nearest(left, rounded)]
    means = _means(left, documents.offsets)
    left -= np.repeat(means, documents.lengths, axis=0)
    spread = float(
        np.sqrt(
            np.square(left).sum(1).mean() / np.square(means).sum(1).mean().clip(min=1e-12)
        ).clip(1)
    )
    left = np.concatenate([left, spread * means])
    left = np.resize(
        left, (max(len(left), _WORDS), left.shape[1])
    )  # a few vectors are repeated: a book wants 256
    rotation = _rotation(left, code_bytes)
    quantizer = faiss.ProductQuantizer(rotation.shape[1], code_bytes, 8)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(np.ascontiguousarray(left @ rotation))
    books = faiss.vector_to_array(quantizer.centroids).reshape(code_bytes, _WORDS, -1)
    return Codec(rounded @ rotation, rotation, books.astype(np.float16).astype(np.float32), spread)


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
    """The number of the point that is nearest to each vector, by ||v - p||^2 = ||v||^2 - 2 (v . p -
    ||p||^2 / 2). FAISS takes several times as long.

    >>> _nearest(np.float32([[0.9, 0.2], [-2, 0]]), np.float32([[0, 0], [1, 0], [-1, 0]])).tolist()
    [1, 2]
    """
    whole, of_points = torch.from_numpy(vectors), torch.from_numpy(points)
    halves = -of_points.square().sum(1) / 2
    step = max(1, _PRODUCTS_AT_ONCE // len(points))
    found = np.empty(len(vectors), np.int64)
    room = torch.empty(min(step, len(vectors)), len(points))
    for start in range(0, len(vectors), step):
        some = whole[start : start + step]
        found[start : start + step] = (
            torch.addmm(halves, some, of_points.T, out=room[: len(some)]).numpy().argmax(1)
        )  # PyTorch's takes twice as long
    return found


def _rotation(
    residuals: Float32[np.ndarray, "token dimension"], code_bytes: int
) -> Float32[np.ndarray, "dimension place"]:
    """Columns: the principal directions, each in a place of some byte so that the products of
    variances are about equal; the rest zeros.
    """
    variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(residuals.T.astype(np.float64))))
    part = -(-len(variances) // code_bytes)
    share = (
        np.log(variances.clip(min=1e-12) / variances.clip(min=1e-12).min()) + 0.1
    )  # positive: who has more directions has more to say
    rotation = np.zeros((len(variances), code_bytes * part), np.float32)
    taken, sums = np.zeros(code_bytes, np.int64), np.zeros(code_bytes)
    for direction in np.argsort(-variances):
        byte = int(np.where(taken < part, sums, np.inf).argmin())
        rotation[:, byte * part + taken[byte]] = directions[:, direction]
        taken[byte] += 1
        sums[byte] += share[direction]
    return rotation
