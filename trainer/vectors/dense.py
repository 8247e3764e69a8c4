"""Vectors of models that give one vector per text."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, Shaped
from torch import Tensor

from trainer.collectives import sum_over_ranks
from trainer.errors import BadModel
from trainer.scores import Score, dot
from trainer.vectors import screened_search
from trainer.vectors.device_copies import DeviceCopies
from trainer.vectors.device_search import DeviceSearch
from trainer.vectors.screened_search import DOCUMENTS_AT_ONCE, Extent, ScreenedSearch
from trainer.vectors.vectors import Search, Vectors


@dataclass(frozen=True)
class DenseVectors(Vectors):
    """One vector per text: text i has `rows[i]`. Texts are compared by the dot product.

    >>> from trainer.vectors.vectors import nearest_documents
    >>> queries = DenseVectors(np.eye(2, dtype="float32"))
    >>> documents = DenseVectors(np.float32([[1, 0], [0, 3], [1, 0], [2, 2]]))
    >>> scores, rows = nearest_documents(queries, documents, k=3)
    >>> rows.tolist(), scores.tolist()
    ([[3, 0, 2], [1, 3, 0]], [[2.0, 1.0, 1.0], [3.0, 2.0, 0.0]])
    """

    UNIT = "text"
    TEXTS_PER_BLOCK: ClassVar[int] = 1 << 14
    ARRAYS = ("vectors",)
    COMPACT = np.float32

    rows: Float[np.ndarray, "text dimension"]
    _extents: dict[tuple[int, bool], Extent] = field(
        default_factory=dict, repr=False, compare=False
    )
    _copies: DeviceCopies = field(default_factory=DeviceCopies, repr=False, compare=False)

    @classmethod
    def score(cls) -> Score:
        """Returns `trainer.scores.dot`."""
        return dot

    @classmethod
    def from_rows(
        cls,
        rows: Float[np.ndarray, "row dimension"],
        lengths: Int64[np.ndarray, " text"],
        dimensions: int | None = None,
    ) -> Self:
        """Returns texts with one of these vectors each."""
        return cls(rows)

    @classmethod
    def from_micro_batches(
        cls,
        micro_batches: Iterable[tuple[Int[Tensor, " row"], Float[Tensor, "row ..."]]],
        texts: int,
        dimensions: int,
        device: torch.device,
    ) -> Self:
        """Returns the vectors of `texts` texts, each of which one rank has encoded.

        Raises BadModel when the model gives token vectors.
        """
        vectors = torch.zeros(texts, dimensions, device=device)
        for places, embeddings in micro_batches:
            if embeddings.ndim != 2:
                raise BadModel(
                    "the model gives one vector per token, but one vector per text is needed; give"
                    " a model of one vector per text"
                )
            vectors[places.to(device)] = embeddings.float()
        return cls(sum_over_ranks(vectors).cpu().numpy())

    @classmethod
    def join(cls, parts: Iterator[Self], texts: int, dimensions: int) -> Self:
        """Returns the vectors of `texts` texts, joined from parts."""
        rows = np.empty((texts, dimensions), np.float32)
        start = 0
        for part in parts:
            rows[start : start + len(part)] = part.rows
            start += len(part)
        return cls(rows)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Self:
        """Returns the vectors in the array "vectors"."""
        return cls(arrays["vectors"])

    @property
    def arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The array "vectors", by its name."""
        return {"vectors": self.rows}

    @property
    def lengths(self) -> Int64[np.ndarray, " text"]:
        """The number of vectors per text, which is 1."""
        return np.ones(len(self.rows), np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, text: int) -> Float[np.ndarray, " dimension"]:
        return self.rows[text]

    def select(self, texts: Int64[np.ndarray, " row"]) -> Self:
        """Returns the texts with these numbers, in this order."""
        return type(self)(self.rows[texts])

    def to_padded(self) -> Float32[np.ndarray, "text dimension"]:
        """Returns the rows in float32."""
        return np.ascontiguousarray(self.rows, np.float32)

    def search(self, k: int, device: torch.device | str = "cpu") -> Search:
        """Returns a search for the k documents with the largest dot product per query."""
        device = torch.device(device)
        if device.type == "cpu":
            return _DenseSearch(ScreenedSearch(self.to_padded(), k))
        return _DeviceDenseSearch(DeviceSearch(self.to_padded(), k, device), device)

    def pair_scores(
        self,
        documents: Self,
        query_rows: Int64[np.ndarray, " pair"],
        document_rows: Int64[np.ndarray, " pair"],
    ) -> Float32[np.ndarray, " pair"]:
        """Returns the dot product of each pair of a query and a document."""
        return screened_search.pair_scores(self.rows, documents.rows, query_rows, document_rows)

    def extent(self, start: int, is_rounded: bool) -> Extent:
        """Returns the extent of the block that begins with text `start`, and caches it."""
        if (start, is_rounded) not in self._extents:
            block = self.rows[start : start + DOCUMENTS_AT_ONCE]
            self._extents[start, is_rounded] = Extent.of(block, is_rounded)
        return self._extents[start, is_rounded]

    def copy(self, start: int, device: torch.device) -> Float[Tensor, "block dimension"]:
        """Returns the block that begins with text `start` on a device; it may stay there."""
        return self._copies.get(slice(start, start + DOCUMENTS_AT_ONCE), self.rows, device)


@dataclass(frozen=True)
class _DenseSearch:
    search: ScreenedSearch

    def add(self, documents: DenseVectors, first_row: int) -> None:
        for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
            extent = documents.extent(start, self.search.is_rounded)
            block = documents.rows[start : start + DOCUMENTS_AT_ONCE]
            self.search.add(block, first_row + start, extent)

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        return self.search.best()


@dataclass(frozen=True)
class _DeviceDenseSearch:
    search: DeviceSearch
    device: torch.device

    def add(self, documents: DenseVectors, first_row: int) -> None:
        for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
            block = documents.rows[start : start + DOCUMENTS_AT_ONCE]
            longest = documents.extent(start, is_rounded=False).longest
            self.search.add(block, first_row + start, longest, documents.copy(start, self.device))

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        return self.search.best()
