"""What every open index offers, whatever kind of vectors it holds."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from numpy import ndarray

from trainer.errors import BadModel
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.corpus import Document
from trainer.vectors.vectors import TopK


@dataclass(frozen=True, slots=True)
class Hit:
    """One document that a search returned."""

    score: float
    document: Document
    first_rank: int | None = None
    """Its rank before a cross-encoder re-ranked, from 1; None where none did."""
    first_score: float | None = None


@runtime_checkable
class IndexManifest(Protocol):
    """What the manifest of every index says."""

    @property
    def model(self) -> str:
        """The folder or name that queries must be encoded with."""

    @property
    def layers(self) -> int | None:
        """The number of the model's layers that are used; None: all."""

    @property
    def count(self) -> int:
        """Documents in the index."""

    @property
    def dimensions(self) -> int:
        """Width of a vector."""

    @property
    def made_with(self) -> str:
        """The model, and how much of it, in words."""

    @property
    def summary(self) -> str:
        """What the index holds, in one line."""


class Index(ABC):
    """An index folder, opened."""

    folder: Path
    manifest: IndexManifest
    UNIT: ClassVar[Literal["document", "token"]]
    """What has one vector."""

    @abstractmethod
    def search(self, queries: Float[ndarray, "query ..."], k: int) -> TopK:
        """Scores and rows of the k best documents of each query, best first; row -1 where there are
        fewer. Raises BadModel for vectors of another width.
        """

    @abstractmethod
    def document(self, row: int) -> Document:
        """The document of a row."""

    @abstractmethod
    def _difference(self, encoder: VectorEncoder) -> str | None:
        """How the encoder's vectors differ from those of the model that made the index; None where
        they are the same.
        """

    def fitted(self, encoder: VectorEncoder) -> VectorEncoder:
        """The encoder, its vectors cut where the index holds only their first numbers. Raises
        BadModel when it is not the model of the index.
        """
        if (encoder.vectors.UNIT == "token") != (self.UNIT == "token"):
            raise BadModel(
                f"{self.folder} holds one vector per {self.UNIT}, and the model gives one per"
                f" {encoder.vectors.UNIT}; search with {self.manifest.made_with}"
            )
        dimensions = self.manifest.dimensions
        if self.UNIT == "document" and encoder.dimensions > dimensions:
            encoder = encoder.narrowed(dimensions)
        if encoder.dimensions != dimensions:
            problem: str | None = (
                f"vectors of {encoder.dimensions} numbers, and the index holds vectors of"
                f" {dimensions}"
            )
        else:
            problem = self._difference(encoder)
        if problem is not None:
            raise BadModel(
                f"{self.folder}: the model gives {problem}; search with {self.manifest.made_with},"
                " or build the index again with this model"
            )
        return encoder
