"""The base class for the vectors of texts: how they are stored, compared and searched.

A model with one vector per text gives `DenseVectors`, one with a vector per token `TokenVectors`,
and one with a sparse vector per text `SparseVectors`. Search, mining, teachers and evaluation use
only `Vectors`.
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
from trainer.storage.atomic import write_array

TopK = tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]
"""Scores and rows of the best documents per query, best first.

Equal scores are in the order of the rows. Where there are fewer documents, the score is minus
infinity and the row -1.
"""


@runtime_checkable
class Search(Protocol):
    """A search for the documents nearest to some queries, among blocks of documents."""

    def add(self, documents: Any, first_row: int) -> None:
        """Searches `documents`, whose row numbers begin with `first_row`."""

    def best(self) -> TopK:
        """Returns the k nearest of all documents so far."""


class Vectors(ABC):
    """The vectors of several texts."""

    UNIT: ClassVar[Literal["text", "token", "term"]]
    """The unit that has one vector; `term`: one sparse vector per text, with a weight per term."""
    TEXTS_PER_BLOCK: ClassVar[int]
    """The number of texts that are encoded, stored and searched together."""
    ARRAYS: ClassVar[tuple[str, ...]]
    """The names of the arrays on disk, in the order in which they are written."""
    COMPACT: ClassVar[type[np.floating]]
    """The number type in which the vectors of a teacher are stored on disk."""
    rows: Float[np.ndarray, "row dimension"]
    """All vectors, text after text."""

    @classmethod
    @abstractmethod
    def score(cls) -> Score:
        """Returns the function of `trainer.scores` that compares queries and documents."""

    @classmethod
    @abstractmethod
    def from_rows(
        cls,
        rows: Float[np.ndarray, "row dimension"],
        lengths: Int64[np.ndarray, " text"],
        dimensions: int | None = None,
    ) -> Self:
        """Returns texts where each text i has the next `lengths[i]` rows.

        `dimensions` are those of a vector, which rows of sparse vectors do not show.
        """

    @classmethod
    def row_width(cls, dimensions: int) -> int:
        """Returns the width of `rows`, given the dimensions of a vector."""
        return dimensions

    @classmethod
    @abstractmethod
    def from_micro_batches(
        cls,
        micro_batches: Iterable[tuple[Int[Tensor, " row"], Float[Tensor, "row ..."]]],
        texts: int,
        dimensions: int,
        device: torch.device,
    ) -> Self:
        """Returns the vectors of `texts` texts, each of which one rank has encoded.

        A micro-batch has the numbers of its texts and the model's output. Every rank gets all
        vectors.
        """

    @classmethod
    @abstractmethod
    def join(cls, parts: Iterator[Self], texts: int, dimensions: int) -> Self:
        """Returns the vectors of `texts` texts, joined from parts."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Self:
        """Returns the vectors in the arrays named in `ARRAYS`."""

    @property
    @abstractmethod
    def arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The arrays named in `ARRAYS`, by their names."""

    @property
    @abstractmethod
    def lengths(self) -> Int64[np.ndarray, " text"]:
        """The number of rows per text."""

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of texts."""

    @abstractmethod
    def __getitem__(self, text: int) -> Float[np.ndarray, "..."]:
        """Returns the vector or the vectors of one text."""

    @abstractmethod
    def select(self, texts: Int64[np.ndarray, " row"]) -> Self:
        """Returns the texts with these numbers, in this order."""

    @abstractmethod
    def to_padded(self) -> Float32[np.ndarray, "text ..."]:
        """Returns one entry per text, as `score()` expects; token vectors are padded with zeros."""

    @abstractmethod
    def search(self, k: int, device: torch.device | str = "cpu") -> Search:
        """Returns a search for the k documents nearest to each of these queries."""

    @abstractmethod
    def pair_scores(
        self,
        documents: Self,
        query_rows: Int64[np.ndarray, " pair"],
        document_rows: Int64[np.ndarray, " pair"],
    ) -> Float32[np.ndarray, " pair"]:
        """Returns the score of each pair of one of these queries and a document.

        `query_rows` must ascend. A score does not depend on the other pairs.
        """

    def empty_texts(self) -> Int64[np.ndarray, " text"]:
        """Returns the numbers of texts without a vector: no search can use or find them."""
        return np.flatnonzero(self.lengths == 0)

    def figures(self, role: str) -> dict[str, float]:
        """Returns what an evaluation says of these vectors of a role, by name."""
        return {}

    def save(self, folder: Path, name: str) -> None:
        """Writes each array to a file of its own in `folder`."""
        for part, array in self.arrays.items():
            write_array(folder / f"{name}-{part}.npy", array)

    @classmethod
    def is_saved(cls, folder: Path, name: str) -> bool:
        """Returns true when `save` has finished: the file that it writes last exists."""
        return (folder / f"{name}-{cls.ARRAYS[-1]}.npy").exists()

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Returns vectors that `save` has written, memory-mapped."""
        # Copy-on-write, though nobody writes: PyTorch warns about read-only arrays.
        # A plain array, because selection from NumPy's memmap takes twice as long.
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
    """Returns the k nearest documents per query, by exact search.

    With fewer than k documents, there is one column per document. `documents` may be a memory map:
    the search reads it in blocks.
    """
    search = queries.search(k, device)
    if len(documents):
        search.add(documents, 0)
    scores, rows = search.best()
    return scores[:, : len(documents)], rows[:, : len(documents)]


def merge_rankings(
    parts: Sequence[tuple[Float32[np.ndarray, "query ..."], Int64[np.ndarray, "query ..."]]], k: int
) -> TopK:
    """Returns the k best of several rankings of the same queries.

    The row numbers of each part are larger than those of the part before.
    """
    scores, rows = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
