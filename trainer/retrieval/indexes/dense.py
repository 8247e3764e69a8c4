"""The index folder: a corpus as vectors, with all that a search needs to show what it found.

manifest.json    model, kind, counts, and size and fingerprint of every other file vectors.npy
float32, one row a document documents.jsonl  id, title and text of every document, in the order of
the rows offsets.npy      where each line of documents.jsonl begins, so that one document is read
without the others probe.npy        vectors of two fixed texts by the model that made the index, to
know it by index.faiss      hnsw and ivf only
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64

from trainer.errors import BadModel
from trainer.retrieval.corpus import Document
from trainer.retrieval.indexes.manifest import Kind, Manifest, describe_files, opened
from trainer.retrieval.indexes.place import new_index
from trainer.retrieval.indexes.search import top_k
from trainer.retrieval.indexes.stored_documents import StoredDocuments, read_array, write_documents
from trainer.retrieval.vectors import nearest
from trainer.retrieval.vectors.encode import encode_for_search
from trainer.strategies.devices import Precision

if TYPE_CHECKING:
    from trainer.models.dense import DenseEncoder

_PROBES = (
    "What is searched for?",
    "A document about disks, networks and the weather, written to be compared.",
)
_PROBE_TOLERANCE = 0.05
"""Relative distance; bf16 stays below 0.02, another model is above 0.1."""
_DOCUMENTS_AT_ONCE = 65536


@dataclass(frozen=True, slots=True)
class Hit:
    """One document that a search returned."""

    score: float
    document: Document
    first_rank: int | None = None
    """Its rank before a cross-encoder re-ranked, from 1; None where none did."""
    first_score: float | None = None


class Index:
    """An index folder, opened. Vectors stay on disk (flat) and documents are read one by one."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.vectors = read_array(
            folder / "vectors.npy", (manifest.count, manifest.dimensions), np.float32
        )
        self._documents = StoredDocuments(
            folder / "documents.jsonl",
            read_array(folder / "offsets.npy", (manifest.count + 1,), np.int64),
        )
        self._probe = read_array(
            folder / "probe.npy", (len(_PROBES), manifest.dimensions), np.float32
        )
        self._faiss: Any = None
        if manifest.kind != "flat":
            path = folder / "index.faiss"
            self._faiss = nearest.load(
                path, manifest.kind, manifest.count, manifest.dimensions, manifest.approximate
            )

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """The index in `folder`. Raises BadFolder when it is not one, or a file of it is missing,
        cut or altered.
        """
        return opened(Path(folder), Manifest.read, cls)

    def check_encoder(self, encoder: "DenseEncoder") -> None:
        """Raises BadModel when `encoder` is not the model that made the index: its vectors would
        find nothing sensible.
        """
        if encoder.dimensions != self.manifest.dimensions:
            problem = (
                f"vectors of {encoder.dimensions} numbers, and the index holds vectors of"
                f" {self.manifest.dimensions}"
            )
        elif (distance := _distance(_probe(encoder), self._probe)) > _PROBE_TOLERANCE:
            problem = f"other vectors than the model that made the index ({distance:.0%} apart)"
        else:
            return
        raise BadModel(
            f"{self.folder}: the model gives {problem}; search with {self.manifest.made_with}, or"
            " build the index again with this model"
        )

    def search(
        self, vectors: Float32[np.ndarray, "query dimension"], k: int
    ) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Scores and rows of the k best documents of each query, best first: exact for flat, else
        about 95 % of them (row -1: none found).
        """
        if vectors.shape[1] != self.manifest.dimensions:
            raise BadModel(
                f"the queries have {vectors.shape[1]} numbers each, the index"
                f" {self.manifest.dimensions}; encode them with {self.manifest.made_with}"
            )
        if self._faiss is None:
            return top_k(vectors, self.vectors, k)
        return nearest.search(self._faiss, vectors, min(k, self.manifest.count))

    def document(self, row: int) -> Document:
        """The document of a row."""
        return self._documents[row]


def hits_of(
    document: Callable[[int], Document],
    scores: Float32[np.ndarray, "query rank"],
    rows: Int64[np.ndarray, "query rank"],
) -> list[list[Hit]]:
    """What a search found for each query, with the document of each row; nothing where the row is
    -1.
    """
    return [
        [Hit(score, document(row)) for score, row in zip(*of_query, strict=True) if row >= 0]
        for of_query in zip(scores.tolist(), rows.tolist(), strict=True)
    ]


def build_index(
    encoder: "DenseEncoder",
    model_name: str,
    documents: Iterable[Document],
    folder: Path,
    kind: Kind = "flat",
    replace: bool = False,
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
    progress: Callable[[int, int], None] = lambda done, all: None,
    layers: int | None = None,
) -> Manifest:
    """Writes the index of `documents` into `folder`, whole or not at all, in bounded memory (hnsw
    and ivf hold all vectors); returns its manifest.

    `progress` is told how many documents are encoded, of how many. `layers` says that `encoder` is
    the first so many layers of the model of that name. Raises BadFolder when `folder` holds
    something (with `replace`: something other than an index), BadData when there is no document.
    """
    with new_index(Path(folder), replace) as partial:
        stored = write_documents(documents, partial / "documents.jsonl", partial / "offsets.npy")
        count = len(stored)
        vectors = np.lib.format.open_memmap(
            partial / "vectors.npy", mode="w+", dtype=np.float32, shape=(count, encoder.dimensions)
        )
        done = 0
        for texts in _texts(stored):
            vectors[done : done + len(texts)] = encode_for_search(
                encoder, texts, "document", micro_batch_tokens, precision
            )
            done += len(texts)
            progress(done, count)
        vectors.flush()
        np.save(partial / "probe.npy", _probe(encoder), allow_pickle=False)
        settings: dict[str, float] = {}
        if kind != "flat":
            index, settings = nearest.build(kind, vectors)
            nearest.save(index, partial / "index.faiss")
        del vectors
        manifest = Manifest(
            model=model_name,
            layers=layers,
            kind=kind,
            count=count,
            dimensions=encoder.dimensions,
            approximate=settings,
            files=describe_files(partial),
        )
        manifest.write(partial)
        return manifest


def _texts(documents: StoredDocuments) -> Iterator[list[str]]:
    """The documents just written, some at a time."""
    whole = (document.whole for document in documents)
    while texts := list(itertools.islice(whole, _DOCUMENTS_AT_ONCE)):
        yield texts


def _probe(encoder: "DenseEncoder") -> Float32[np.ndarray, "probe dimension"]:
    return encode_for_search(encoder, _PROBES, "document")


def _distance(
    found: Float32[np.ndarray, "probe dimension"], wanted: Float32[np.ndarray, "probe dimension"]
) -> float:
    return float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-12))
