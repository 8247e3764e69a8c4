"""The index folder for one vector per document.

manifest.json    model, kind, counts, and size and fingerprint of every other file
vectors.npy      float32, one row per document
documents.jsonl  id, title and text of every document, or path of an image, in the order of the rows
offsets.npy      where each line of documents.jsonl begins, so that one document can be read alone
probe.npy        vectors of two fixed texts, by which the model of the index is recognised
index.faiss      hnsw and ivf only
"""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Int64

from trainer.data.readers.corpus import Document
from trainer.errors import BadModel
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import Encoding, document_blocks
from trainer.retrieval.indexes import approximate
from trainer.retrieval.indexes.index import RewritableIndex
from trainer.retrieval.indexes.manifest import (
    DenseIndexKind,
    DenseManifest,
    describe_files,
    open_consistent,
)
from trainer.retrieval.indexes.place import new_index
from trainer.retrieval.indexes.probe import PROBES, probe_difference, vectors_of_probes
from trainer.retrieval.indexes.stored_documents import StoredDocuments, read_array, write_documents
from trainer.storage.atomic import write_array
from trainer.vectors.dense import DenseVectors
from trainer.vectors.vectors import TopK, Vectors

_VECTORS_AT_ONCE = 1 << 16


class DenseIndex(RewritableIndex):
    """An open index with one vector per document.

    Documents are read from disk one by one, and so are the vectors of a flat index.
    """

    UNIT = "text"

    def __init__(self, folder: Path, manifest: DenseManifest) -> None:
        self.folder = folder
        self.manifest: DenseManifest = manifest
        self.vectors = DenseVectors(
            read_array(folder / "vectors.npy", (manifest.count, manifest.dimensions), np.float32)
        )
        self.documents = StoredDocuments.open(folder, manifest.count)
        probe_shape = (len(PROBES), manifest.dimensions)
        self._probe = read_array(folder / "probe.npy", probe_shape, np.float32)
        self._faiss: Any = None
        if manifest.kind != "flat":
            path = folder / "index.faiss"
            self._faiss = approximate.load(
                path, manifest.kind, manifest.count, manifest.dimensions, manifest.approximate
            )

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the index in `folder`.

        Raises BadFolder when it holds no index, or when a file is missing, truncated or altered.
        """
        return open_consistent(Path(folder), DenseManifest.read, cls)

    @property
    def has_images(self) -> bool:
        """True when the documents are images."""
        return self.manifest.has_images

    def _difference(self, encoder: VectorEncoder) -> str | None:
        return probe_difference(encoder, self._probe)

    def nearest(self, queries: Vectors, k: int) -> TopK:
        """Returns the result of `search`."""
        return self.search(queries.to_padded(), k)

    def search(self, queries: Float32[np.ndarray, "query dimension"], k: int) -> TopK:
        """Returns scores and rows of the k best documents per query, best first.

        A flat index is exact. Others find about 95 % of these documents; row -1 stands for none.
        """
        if queries.shape[1] != self.manifest.dimensions:
            raise BadModel(
                f"the queries have {queries.shape[1]} dimensions, but the index has"
                f" {self.manifest.dimensions}; encode them with {self.manifest.made_with}"
            )
        if self._faiss is None:
            search = DenseVectors(queries).search(min(k, self.manifest.count))
            search.add(self.vectors, first_row=0)
            return search.best()
        return approximate.search(self._faiss, queries, min(k, self.manifest.count))

    def write_changed(
        self,
        folder: Path,
        count: int,
        rows: Int64[np.ndarray, " row"],
        new_vectors: Iterable[Vectors],
    ) -> DenseManifest:
        """Writes a changed index, as `RewritableIndex` says. Except for a flat index, all vectors
        are indexed anew.
        """
        manifest = self.manifest.model_copy(update={"count": count})
        old_vectors = (
            self.vectors.select(rows[start : start + _VECTORS_AT_ONCE])
            for start in range(0, len(rows), _VECTORS_AT_ONCE)
        )
        return _write_vectors(folder, manifest, chain(old_vectors, new_vectors), self._probe)


def build_dense_index(
    encoding: Encoding,
    model_name: str,
    documents: Iterable[Document],
    folder: Path,
    kind: DenseIndexKind = "flat",
    replace: bool = False,
    layers: int | None = None,
) -> DenseManifest:
    """Writes the index of `documents` into `folder`, and returns its manifest.

    If this fails, `folder` is unchanged. Except for a flat index, memory holds all vectors.
    `layers` is the number of the model's layers that the encoder has. Raises BadFolder as
    `new_index` does, and BadData when there is no document.
    """
    encoder = encoding.encoder
    with new_index(Path(folder), replace) as partial:
        places = partial / "documents.jsonl", partial / "offsets.npy"
        on_disk = write_documents(documents, *places)
        if encoder.encodes_images:  # `on_disk` stays open, and has the bytes until they are encoded
            write_documents(map(Document.without_bytes, on_disk), *places, "writing the documents")
        manifest = DenseManifest(
            model=model_name,
            layers=layers,
            kind=kind,
            count=len(on_disk),
            dimensions=encoder.dimensions,
            has_images=encoder.encodes_images,
            approximate={},
            files={},
        )
        blocks = (block.vectors for block in document_blocks(encoding, on_disk))
        return _write_vectors(partial, manifest, blocks, vectors_of_probes(encoder))


def _write_vectors(
    folder: Path,
    manifest: DenseManifest,
    blocks: Iterable[Vectors],
    probe: Float32[np.ndarray, "probe dimension"],
) -> DenseManifest:
    """Writes all files beside those of the documents, and returns the complete manifest."""
    vectors = np.lib.format.open_memmap(
        folder / "vectors.npy",
        mode="w+",
        dtype=np.float32,
        shape=(manifest.count, manifest.dimensions),
    )
    start = 0
    for block in blocks:
        vectors[start : start + len(block)] = block.rows
        start += len(block)
    vectors.flush()
    write_array(folder / "probe.npy", probe)
    settings: dict[str, float] = {}
    if manifest.kind != "flat":
        index, settings = approximate.build_approximate(manifest.kind, vectors)
        approximate.save(index, folder / "index.faiss")
    manifest = manifest.model_copy(
        update={"approximate": settings, "files": describe_files(folder)}
    )
    manifest.write(folder)
    return manifest
