"""Vectors of models that give one vector per token, stored without padding."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, Shaped
from torch import Tensor

from trainer.errors import BadModel
from trainer.scores import Score, has_kernel, maxsim
from trainer.vectors.device_copies import DeviceCopies, upload
from trainer.vectors.maxsim_device_search import TOKENS_AT_ONCE, MaxSimDeviceSearch
from trainer.vectors.maxsim_search import MaxSimSearch, flat_queries, maxsim_scores
from trainer.vectors.ragged import (
    RaggedVectors,
    document_ranges,
    offsets_of,
    rows_of_all_ranks,
    tokens_of,
)
from trainer.vectors.vectors import Search


@dataclass(frozen=True, slots=True)
class TokenVectors(RaggedVectors):
    """One vector per token that counts: text i has `rows[offsets[i] : offsets[i + 1]]`.

    Texts are compared by MaxSim.

    >>> from trainer.vectors.vectors import nearest_documents
    >>> documents = TokenVectors(np.float32([[1, 0], [0, 1], [2, 0]]), np.array([0, 2, 3]))
    >>> queries = TokenVectors(np.float32([[1, 0], [0, 1]]), np.array([0, 2]))
    >>> scores, rows = nearest_documents(queries, documents, k=2)
    >>> scores.tolist(), rows.tolist()
    ([[2.0, 2.0]], [[0, 1]])
    """

    UNIT = "token"
    TEXTS_PER_BLOCK: ClassVar[int] = 1 << 11
    ARRAYS = ("vectors", "offsets")
    COMPACT = np.float16

    rows: Float[np.ndarray, "token dimension"]
    offsets: Int64[np.ndarray, " text_plus_one"]
    _copies: DeviceCopies = field(default_factory=DeviceCopies, repr=False, compare=False)

    @classmethod
    def score(cls) -> Score:
        """Returns `trainer.scores.maxsim`."""
        return maxsim

    @classmethod
    def from_rows(
        cls,
        rows: Float[np.ndarray, "row dimension"],
        lengths: Int64[np.ndarray, " text"],
        dimensions: int | None = None,
    ) -> Self:
        """Returns texts where each text i has the next `lengths[i]` rows."""
        return cls(rows, offsets_of(lengths))

    @classmethod
    def from_micro_batches(
        cls,
        micro_batches: Iterable[tuple[Int[Tensor, " row"], Float[Tensor, "row ..."]]],
        texts: int,
        dimensions: int,
        device: torch.device,
    ) -> Self:
        """Returns the vectors of `texts` texts, each of which one rank has encoded.

        Rows of zeros are padding and are left out. Raises BadModel when the model gives one vector
        per text.
        """
        rank_texts = []
        for places, embeddings in micro_batches:
            if embeddings.ndim != 3:
                raise BadModel(
                    "the model gives one vector per text; token vectors come from a"
                    " late-interaction model, trained with a recipe of kind colbert"
                )
            is_vector = embeddings.any(-1)
            # To select by the mask would make the CPU wait for a GPU twice.
            tokens = is_vector.flatten().nonzero().squeeze(1)
            rows = embeddings.flatten(0, 1)[tokens].float()
            rank_texts.append((places, is_vector.sum(1), rows))
        return cls.from_rows(*rows_of_all_ranks(rank_texts, texts, dimensions, device))

    @classmethod
    def join(cls, parts: Iterator[Self], texts: int, dimensions: int) -> Self:
        """Returns the vectors of texts, joined from parts."""
        return cls.from_rows(*cls.joined_rows(parts, dimensions))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Self:
        """Returns the vectors in the arrays "vectors" and "offsets"."""
        return cls(arrays["vectors"], arrays["offsets"])

    @property
    def arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The arrays "vectors" and "offsets", by their names."""
        return {"vectors": self.rows, "offsets": self.offsets}

    def select(self, texts: Int64[np.ndarray, " row"]) -> Self:
        """Returns the texts with these numbers, in this order.

        >>> vectors = TokenVectors(np.float32([[1], [2], [3]]), np.array([0, 2, 3]))
        >>> vectors.select(np.array([1, 0])).rows.tolist()
        [[3.0], [1.0], [2.0]]
        """
        return type(self).from_rows(self.rows[tokens_of(self.offsets, texts)], self.lengths[texts])

    def to_padded(self) -> Float32[np.ndarray, "text length dimension"]:
        """Returns one matrix per text, padded with rows of zeros as `trainer.scores` expects.

        >>> TokenVectors(np.float32([[1], [2], [3]]), np.array([0, 2, 3])).to_padded()[
        ...     :, :, 0
        ... ].tolist()
        [[1.0, 2.0], [3.0, 0.0]]
        """
        lengths = self.lengths
        is_vector = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        padded_rows = np.zeros((*is_vector.shape, self.rows.shape[1]), dtype=np.float32)
        padded_rows[is_vector] = self.rows
        return padded_rows

    def search(self, k: int, device: torch.device | str = "cpu") -> Search:
        """Returns a search for the k documents with the largest MaxSim per query."""
        device = torch.device(device)
        if has_kernel(device):
            return _DeviceTokenSearch(MaxSimDeviceSearch(self.to_padded(), k, device), device)
        return _TokenSearch(MaxSimSearch(self.to_padded(), k))

    def pair_scores(
        self,
        documents: Self,
        query_rows: Int64[np.ndarray, " pair"],
        document_rows: Int64[np.ndarray, " pair"],
    ) -> Float32[np.ndarray, " pair"]:
        """Returns the MaxSim of each pair of a query and a document."""
        scores = np.empty(len(query_rows), np.float32)
        cuts = [0, *(np.flatnonzero(np.diff(query_rows)) + 1).tolist(), len(query_rows)]
        for start, stop in pairwise(cuts):
            if start == stop:
                continue
            tokens, starts = flat_queries(self[int(query_rows[start])][None])
            selection = documents.select(document_rows[start:stop])
            scores[start:stop] = maxsim_scores(tokens, starts, selection.rows, selection.offsets)[0]
        return scores

    def copy(
        self, first: int, last: int, device: torch.device
    ) -> tuple[Float[Tensor, "token dimension"], Int64[Tensor, " text_plus_one"]]:
        """Returns rows and offsets of the texts from `first` to `last` on a device; the rows may
        stay there.
        """
        start, stop = int(self.offsets[first]), int(self.offsets[last])
        rows = self._copies.get(slice(start, stop), self.rows, device)
        return rows, upload(self.offsets[first : last + 1] - start, device)


@dataclass(frozen=True)
class _TokenSearch:
    maxsim: MaxSimSearch

    def add(self, documents: TokenVectors, first_row: int) -> None:
        self.maxsim.add(documents.rows, documents.offsets, first_row)

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        return self.maxsim.best()


@dataclass(frozen=True)
class _DeviceTokenSearch:
    maxsim: MaxSimDeviceSearch
    device: torch.device

    def add(self, documents: TokenVectors, first_row: int) -> None:
        for first, last in document_ranges(documents.offsets, TOKENS_AT_ONCE):
            rows, offsets = documents.copy(first, last, self.device)
            self.maxsim.add(rows, offsets, first_row + first)

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        return self.maxsim.best()
