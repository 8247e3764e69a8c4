"""The protocol of everything that models make of texts: stored, compared and searched alike.

A model of one vector per text gives `DenseVectors`, one of one vector per token `TokenVectors`.
Search, mining, teachers and evaluation are written against `Vectors` and know of neither.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, Shaped
from torch import Tensor

from trainer.scores import Score
from trainer.storage.atomic import atomic_file

TopK = tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]
"""Scores and rows of the best documents of each query, best first. Equal scores are in the order of
the rows. Minus infinity and row -1 where there are fewer documents.
"""


@runtime_checkable
class Search(Protocol):
    """The documents nearest to some queries, among blocks of documents that are shown one after the
    other.
    """

    def add(self, documents: Any, first_row: int) -> None:
        """Looks through `documents`, whose rows begin with `first_row`."""

    def best(self) -> TopK:
        """The k nearest of all documents so far."""


class Vectors(ABC):
    """The vectors of several texts."""

    UNIT: ClassVar[Literal["text", "token"]]
    """What has one vector."""
    TEXTS_PER_BLOCK: ClassVar[int]
    """Texts that are encoded, kept and searched together."""
    ARRAYS: ClassVar[tuple[str, ...]]
    """The names of the arrays that hold the vectors on disk, in the order of writing."""
    COMPACT: ClassVar[type[np.floating]]
    """The type of number that suffices for the vectors of a teacher on disk."""
    rows: Float[np.ndarray, "row dimension"]
    """All vectors, text after text."""

    @classmethod
    @abstractmethod
    def score(cls) -> Score:
        """How queries and documents are compared, as tensors (`trainer.scores`)."""

    @classmethod
    @abstractmethod
    def from_rows(
        cls, rows: Float[np.ndarray, "row dimension"], lengths: Int64[np.ndarray, " text"]
    ) -> Self:
        """The texts of which text i has the next `lengths[i]` of the rows."""

    @classmethod
    @abstractmethod
    def from_micro_batches(
        cls,
        micro_batches: Iterable[tuple[Int[Tensor, " row"], Float[Tensor, "row ..."]]],
        texts: int,
        dimensions: int,
        device: torch.device,
    ) -> Self:
        """The vectors of `texts` texts, of which each rank has encoded some: places among them, and
        the model's output. Every rank gets all of them.
        """

    @classmethod
    @abstractmethod
    def join(cls, parts: Iterator[Self], texts: int, dimensions: int) -> Self:
        """The vectors of `texts` texts that come in parts."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Self:
        """The vectors that the arrays named in `ARRAYS` hold."""

    @property
    @abstractmethod
    def arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The arrays named in `ARRAYS`."""

    @property
    @abstractmethod
    def lengths(self) -> Int64[np.ndarray, " text"]:
        """How many rows each text has."""

    @abstractmethod
    def __len__(self) -> int:
        """How many texts there are."""

    @abstractmethod
    def __getitem__(self, text: int) -> Float[np.ndarray, "..."]:
        """The vector of one text, or its vectors."""

    @abstractmethod
    def select(self, texts: Int64[np.ndarray, " row"]) -> Self:
        """The texts at these places, in this order."""

    @abstractmethod
    def padded(self) -> Float32[np.ndarray, "text ..."]:
        """One entry per text, as `score()` takes them: rows of zeros behind the last of a text."""

    @abstractmethod
    def search(self, k: int, device: torch.device | str = "cpu") -> Search:
        """A search for the k documents nearest to each of these queries."""

    @abstractmethod
    def pair_scores(
        self,
        documents: Self,
        query_rows: Int64[np.ndarray, " pair"],
        document_rows: Int64[np.ndarray, " pair"],
    ) -> Float32[np.ndarray, " pair"]:
        """The score of each pair of one of these queries and a document. Queries come in ascending
        order. A score does not depend on the other pairs.
        """

    def empty_texts(self) -> Int64[np.ndarray, " text"]:
        """The places of texts without a vector: nothing can be found by them."""
        return np.flatnonzero(self.lengths == 0)

    def save(self, folder: Path, name: str) -> None:
        """Writes the arrays to `folder`, one file each."""
        for part, array in self.arrays.items():
            with atomic_file(folder / f"{name}-{part}.npy") as partial, partial.open("wb") as file:
                np.save(file, array)

    @classmethod
    def is_saved(cls, folder: Path, name: str) -> bool:
        """Whether `save` has written these vectors wholly: the array that comes last is there."""
        return (folder / f"{name}-{cls.ARRAYS[-1]}.npy").exists()

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """What `save` has written, memory-mapped."""
        # Copied when written to, which nobody does: PyTorch warns of arrays that are read-only.
        # As a plain array, since selecting from NumPy's memmap takes twice as long.
        return cls.from_arrays(
            {
                part: np.asarray(
                    np.load(folder / f"{name}-{part}.npy", mmap_mode="c", allow_pickle=False)
                )
                for part in cls.ARRAYS
            }
        )


def nearest_documents(
    queries: Vectors, documents: Vectors, k: int, device: torch.device | str = "cpu"
) -> TopK:
    """The k nearest documents of each query, by exact search; as many columns as there are
    documents where those are fewer.

    `documents` may be a memory map: they are looked at block by block.
    """
    search = queries.search(k, device)
    if len(documents):
        search.add(documents, 0)
    scores, rows = search.best()
    return scores[:, : len(documents)], rows[:, : len(documents)]


def merge_rankings(
    parts: Sequence[tuple[Float32[np.ndarray, "query ..."], Int64[np.ndarray, "query ..."]]], k: int
) -> TopK:
    """The k best of several rankings of the same queries, whose rows ascend from part to part."""
    scores, rows = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
