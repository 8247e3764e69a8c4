"""Token vectors in a few bytes each: the number of the nearest of many centroids, and what is left of the vector in a product code.

After ColBERTv2 (Santhanam et al. 2022), with a difference that brings everything a search needs to 1/8 of float16 at 2 bits a number. ColBERTv2
rounds each number of the residual by itself to 2 bits, which fills the eighth alone and leaves nothing for the centroids' numbers. Here a byte
stands for several numbers together, by a product quantizer (Jegou et al. 2011), which is nearer for the same bytes; numbers that vary little
share a byte with more others than those that vary much.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16

from trainer.errors import BadFolder

FILES = ("centroids.npy", "rotation.npy", "books.npy")
MOST_CENTROIDS = 1 << 16
_WORDS = 256
_POINTS_A_CENTROID = 48
_ROUNDS = 8
_POINTS_FOR_WORDS = 1 << 16
_TOKENS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Codec:
    """Between token vectors of length 1 and their codes. Vectors are rotated first, into as many places as the bytes have, some of them always zero."""

    centroids: Float32[np.ndarray, "centroid place"]
    """Rotated."""
    rotation: Float32[np.ndarray, "dimension place"]
    books: Float32[np.ndarray, "byte word part"]

    @property
    def code_bytes(self) -> int:
        """Bytes of a residual."""
        return len(self.books)

    def rotate(self, vectors: Float[np.ndarray, "*row dimension"]) -> Float32[np.ndarray, "*row place"]:
        """Vectors as they stand to decoded ones: dot products are those of before."""
        return vectors.astype(np.float32) @ self.rotation

    def encode(self, vectors: Float[np.ndarray, "token dimension"]) -> tuple[UInt16[np.ndarray, " token"], UInt8[np.ndarray, "token byte"]]:
        """The number of the nearest centroid, and the residual's code, of every vector."""
        ids, codes = np.empty(len(vectors), np.uint16), np.empty((len(vectors), self.code_bytes), np.uint8)
        nearest, quantizer = _nearest(self.centroids), self._quantizer()
        for start in range(0, len(vectors), _TOKENS_AT_ONCE):
            some = slice(start, start + _TOKENS_AT_ONCE)
            rotated = self.rotate(vectors[some])
            ids[some] = nearest.search(rotated, 1)[1][:, 0]
            codes[some] = quantizer.compute_codes(rotated - self.centroids[ids[some]])
        return ids, codes

    def decode(self, ids: UInt16[np.ndarray, " token"], codes: UInt8[np.ndarray, "token byte"]) -> Float32[np.ndarray, "token place"]:
        """The rotated vectors, nearly; of length 1."""
        vectors = self.centroids[ids]
        vectors += self._quantizer().decode(np.ascontiguousarray(codes))
        vectors /= np.sqrt(np.einsum("td,td->t", vectors, vectors))[:, None].clip(min=1e-12)
        return vectors

    def save(self, folder: Path) -> None:
        """Writes its three files into `folder`; numbers in float16, the rotation in float32."""
        np.save(folder / "centroids.npy", (self.centroids @ self.rotation.T).astype(np.float16), allow_pickle=False)
        np.save(folder / "rotation.npy", self.rotation, allow_pickle=False)
        np.save(folder / "books.npy", self.books.astype(np.float16), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, dimensions: int) -> Self:
        """The codec in `folder`. Raises BadFolder when its files do not belong together."""
        try:
            centroids, rotation, books = (np.load(folder / name, allow_pickle=False) for name in FILES)
        except (OSError, ValueError) as error:
            raise BadFolder(f"{folder}: the codec of the index cannot be read ({error}); build the index again") from error
        fits = centroids.ndim == 2 and len(centroids) <= MOST_CENTROIDS and books.ndim == 3 and books.shape[1] == _WORDS
        if not fits or centroids.shape[1] != dimensions or rotation.shape != (dimensions, books.shape[0] * books.shape[2]):
            raise BadFolder(f"{folder}: the files of the codec do not belong to an index of {dimensions} dimensions; build the index again")
        return cls(centroids.astype(np.float32) @ rotation, rotation, books.astype(np.float32))

    def _quantizer(self) -> Any:
        import faiss

        byte, _, part = self.books.shape
        quantizer = faiss.ProductQuantizer(byte * part, byte, 8)
        faiss.copy_array_to_vector(self.books.ravel(), quantizer.centroids)
        return quantizer


def train(vectors: Float32[np.ndarray, "token dimension"], centroids: int, code_bytes: int) -> Codec:
    """A codec learned from a sample of token vectors, with `code_bytes` bytes for a residual.

    Centroids by k-means; then a rotation onto the principal directions of the residuals, dealt out so that the bytes have equally much to say
    (after Ge et al. 2013, section 3.2.2); then the words of each byte by k-means.
    """
    import faiss

    found = faiss.Kmeans(
        vectors.shape[1],
        centroids,
        niter=_ROUNDS,
        seed=13,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_A_CENTROID,
    )
    found.train(vectors)
    assert found.centroids is not None
    sample = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), _POINTS_FOR_WORDS)).astype(np.int64)]
    residuals = sample - found.centroids[_nearest(found.centroids).search(sample, 1)[1][:, 0]]
    residuals = np.resize(residuals, (max(len(residuals), _WORDS), residuals.shape[1]))  # a few vectors are repeated: a book wants 256
    rotation = _rotation(residuals, code_bytes)
    quantizer = faiss.ProductQuantizer(rotation.shape[1], code_bytes, 8)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(np.ascontiguousarray(residuals @ rotation))
    books = faiss.vector_to_array(quantizer.centroids).reshape(code_bytes, _WORDS, -1)
    # Rounded as they will be read, so that codes are made with the numbers they are read with.
    rounded = found.centroids.astype(np.float16).astype(np.float32)
    return Codec(rounded @ rotation, rotation, books.astype(np.float16).astype(np.float32))


def _nearest(centroids: Float32[np.ndarray, "centroid dimension"]) -> Any:
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    return index


def _rotation(residuals: Float32[np.ndarray, "token dimension"], code_bytes: int) -> Float32[np.ndarray, "dimension place"]:
    """Columns: the principal directions, each in a place of some byte so that the products of variances are about equal; the rest zeros."""
    variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(residuals.T.astype(np.float64))))
    part = -(-len(variances) // code_bytes)
    share = np.log(variances.clip(min=1e-12) / variances.clip(min=1e-12).min()) + 0.1  # positive: who has more directions has more to say
    rotation = np.zeros((len(variances), code_bytes * part), np.float32)
    taken, sums = np.zeros(code_bytes, np.int64), np.zeros(code_bytes)
    for direction in np.argsort(-variances):
        byte = int(np.where(taken < part, sums, np.inf).argmin())
        rotation[:, byte * part + taken[byte]] = directions[:, direction]
        taken[byte] += 1
        sums[byte] += share[direction]
    return rotation
