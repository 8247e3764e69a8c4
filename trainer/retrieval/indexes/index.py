"""The base class of open indexes, for all kinds of vectors."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from trainer.data.readers.corpus import Document
from trainer.errors import BadModel
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.indexes.manifest import FileRecord
from trainer.retrieval.indexes.stored_documents import StoredDocuments
from trainer.vectors.vectors import TopK, Vectors

Unit = Literal["text", "token", "term"]
"""`Vectors.UNIT` of the vectors that an index holds."""

OUTPUTS: dict[Unit, str] = {
    "text": "one vector per document",
    "token": "one vector per token",
    "term": "one sparse vector per document",
}
"""What an index holds, and what a model gives."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One document that a search returned."""

    score: float
    document: Document
    first_rank: int | None = None
    """The rank before re-ranking by a cross-encoder, from 1; None without re-ranking."""
    first_score: float | None = None
    row: int = field(default=0, compare=False, repr=False)
    """The row in its index."""


@runtime_checkable
class IndexManifest(Protocol):
    """The properties of an index that every manifest has."""

    @property
    def model(self) -> str:
        """The folder or name of the model that must encode the queries."""

    @property
    def layers(self) -> int | None:
        """The number of the model's layers that are used; None: all."""

    @property
    def kind(self) -> str:
        """How the documents are searched, as `nearfar index --kind` calls it."""

    @property
    def count(self) -> int:
        """The number of documents in the index."""

    @property
    def dimensions(self) -> int:
        """The number of dimensions of a vector."""

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """Size and hash of each file."""

    @property
    def made_with(self) -> str:
        """A phrase that names the model and how many of its layers are used."""

    @property
    def summary(self) -> str:
        """One line that describes the content of the index."""


class Index(ABC):
    """An open index folder."""

    folder: Path
    manifest: IndexManifest
    UNIT: ClassVar[Unit]

    @abstractmethod
    def nearest(self, queries: Vectors, k: int) -> TopK:
        """Returns scores and rows of the k best documents per query, best first.

        The row is -1 where there are fewer documents. Raises BadModel when the number of dimensions
        is wrong.
        """

    @property
    def has_images(self) -> bool:
        """True when the documents are images."""
        return False

    @abstractmethod
    def document(self, row: int) -> Document:
        """Returns the document of a row."""

    def live_rows(self) -> Int64[np.ndarray, " row"]:
        """Returns the rows of the documents that are not deleted."""
        return np.arange(self.manifest.count)

    @abstractmethod
    def _difference(self, encoder: VectorEncoder) -> str | None:
        """Returns how the encoder's vectors differ from those of the index's model, or None."""

    def fit_encoder(self, encoder: VectorEncoder) -> VectorEncoder:
        """Returns the encoder, with its vectors cut to the dimensions of the index.

        Raises BadModel when it is not the model of the index.
        """
        if encoder.vectors.UNIT != self.UNIT:
            raise BadModel(
                f"{self.folder} holds {OUTPUTS[self.UNIT]}, but the model gives"
                f" {OUTPUTS[encoder.vectors.UNIT]}; search with {self.manifest.made_with}"
            )
        if encoder.encodes_images != self.has_images:
            contents = ("texts", "images") if encoder.encodes_images else ("images", "texts")
            raise BadModel(
                f"{self.folder} holds {contents[0]}, but the model encodes {contents[1]}; search"
                f" with {self.manifest.made_with}"
            )
        dimensions = self.manifest.dimensions
        if self.UNIT == "text" and encoder.dimensions > dimensions:
            encoder = encoder.with_dimensions(dimensions)
        if encoder.dimensions != dimensions:
            problem: str | None = (
                f"vectors with {encoder.dimensions} dimensions, but those of the index have"
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


class RewritableIndex(Index):
    """An index that is changed by writing it anew, with the old vectors."""

    documents: StoredDocuments

    def document(self, row: int) -> Document:
        """Returns the document of a row."""
        return self.documents[row]

    @abstractmethod
    def write_changed(
        self,
        folder: Path,
        count: int,
        rows: Int64[np.ndarray, " row"],
        new_vectors: Iterable[Vectors],
    ) -> IndexManifest:
        """Writes an index of `count` documents, which are in `folder` already: those at `rows` of
        this index, then new ones. Returns its manifest.

        Old vectors are copied, bit for bit.
        """
