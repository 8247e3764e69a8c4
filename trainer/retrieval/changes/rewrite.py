"""Changes of dense and sparse indexes, which are written anew. Only new documents are encoded."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from trainer.batch import identity
from trainer.data.readers.corpus import Document
from trainer.errors import BadData
from trainer.retrieval.encoding.encode import Encoding, document_blocks
from trainer.retrieval.indexes.index import IndexManifest, RewritableIndex
from trainer.retrieval.indexes.stored_documents import check_known, check_new, write_documents


def write_with(
    index: RewritableIndex,
    folder: Path,
    encoding: Encoding,
    documents: Iterable[Document],
    replaces: bool = False,
) -> IndexManifest:
    """Writes an index with further documents into `folder`, and returns its manifest.

    Raises BadData when an id is already there (with `replaces`, its document is left out), and
    BadModel when the encoder is not that of the index.
    """
    encoding = replace(encoding, encoder=index.fit_encoder(encoding.encoder))
    ids = list(index.documents.ids())
    known_ids = set() if replaces else set(map(identity, ids))
    texts, offsets = folder / "new.jsonl", folder / "new.npy"
    new_documents = write_documents(check_new(documents, known_ids, index.folder), texts, offsets)
    new_ids = set(new_documents.ids()) if replaces else set()
    rows = np.array([row for row, name in enumerate(ids) if name not in new_ids], np.int64)
    old_documents = map(index.document, rows.tolist())
    on_disk = write_documents(
        chain(old_documents, map(Document.without_bytes, new_documents)),
        folder / "documents.jsonl",
        folder / "offsets.npy",
    )
    vectors = (block.vectors for block in document_blocks(encoding, new_documents))
    manifest = index.write_changed(folder, len(on_disk), rows, vectors)
    texts.unlink()
    offsets.unlink()
    return manifest


def write_without(index: RewritableIndex, folder: Path, ids: Collection[str]) -> IndexManifest:
    """Writes an index without the documents with these ids into `folder`, and returns its manifest.

    Raises BadData when an id is not in the index, or no document would be left.
    """
    missing_ids, kept_rows = set(ids), []
    for row, document_id in enumerate(index.documents.ids()):
        if document_id in ids:
            missing_ids.discard(document_id)
        else:
            kept_rows.append(row)
    check_known(missing_ids, index.folder)
    if not kept_rows:
        raise BadData(
            f"{index.folder} would have no documents left, and an index of kind"
            f" {index.manifest.kind} cannot be empty; nothing was deleted: leave one, or remove the"
            " folder"
        )
    rows = np.array(kept_rows, np.int64)
    on_disk = write_documents(
        map(index.document, kept_rows), folder / "documents.jsonl", folder / "offsets.npy"
    )
    return index.write_changed(folder, len(on_disk), rows, [])
