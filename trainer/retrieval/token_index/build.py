"""Builds an index of token vectors."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from trainer.data.readers.corpus import Document
from trainer.progress import phase
from trainer.retrieval.encoding.encode import Encoding, document_blocks
from trainer.retrieval.indexes.place import new_index
from trainer.retrieval.indexes.stored_documents import StoredDocuments, write_documents
from trainer.retrieval.token_index.compress import compress_segment, train_codec
from trainer.retrieval.token_index.effort import measure_effort
from trainer.retrieval.token_index.growing_array import GrowingArray
from trainer.retrieval.token_index.index import TokenIndex, probe_vectors
from trainer.retrieval.token_index.manifest import (
    Bits,
    Segment,
    TokenIndexKind,
    TokenManifest,
)
from trainer.retrieval.token_index.pooling import merge_similar_tokens
from trainer.storage.atomic import write_array
from trainer.vectors.tokens import TokenVectors


def build_token_index(
    encoding: Encoding,
    model_name: str,
    documents: Iterable[Document],
    folder: Path,
    kind: TokenIndexKind = "compressed",
    bits: Bits = 2,
    pool_factor: int = 1,
    replace: bool = False,
    layers: int | None = None,
) -> TokenManifest:
    """Writes the index of `documents` into `folder`, and returns its manifest.

    If this fails, `folder` is unchanged. Little memory is needed. `exact` stores all vectors in
    float16. `compressed` uses `bits` bits per vector component, overhead included; while it is
    built, it takes the space of an exact index. With `pool_factor` f, a document has 1/f of its
    vectors. `layers` is the number of the model's layers that the encoder has. Raises BadFolder as
    `new_index` does, and BadData without documents or for one without a token that counts.
    """
    with new_index(Path(folder), replace) as partial:
        write_array(partial / "probe.npy", probe_vectors(encoding.encoder))
        texts, offsets = partial / "documents-1.jsonl", partial / "offsets-1.npy"
        documents_on_disk = write_documents(documents, texts, offsets)
        segment = write_vectors(partial, 1, documents_on_disk, encoding, pool_factor)
        if kind == "compressed":
            codec = train_codec(partial, segment, bits)
            codec.save(partial)
            error = compress_segment(partial, segment, codec)
        manifest = TokenManifest(
            model=model_name,
            layers=layers,
            kind=kind,
            dimensions=encoding.encoder.dimensions,
            bits=bits if kind == "compressed" else None,
            pool_factor=pool_factor,
            changes=1,
            approximate={},
            segments=(segment,),
            files={},
        ).with_file_records(partial)
        if kind == "compressed":
            manifest = with_effort(partial, manifest, encoding, error)
        manifest.write(partial)
        return manifest


def with_effort(
    folder: Path, manifest: TokenManifest, encoding: Encoding, error: float | None
) -> TokenManifest:
    """Measures the effort of a search, and returns the manifest with it."""
    with phase("measuring how many candidates a search needs"):
        effort = measure_effort(TokenIndex(folder, manifest), encoding.encoder)
    effort |= {"tokens": float(manifest.tokens)}
    return manifest.model_copy(
        update={"approximate": effort if error is None else effort | {"squared_error": error}}
    )


def write_vectors(
    folder: Path,
    number: int,
    documents_on_disk: StoredDocuments,
    encoding: Encoding,
    pool_factor: int,
) -> Segment:
    """Encodes the documents of a new segment into its float16 file of vectors."""
    lengths = []
    with GrowingArray(
        folder / f"vectors-{number}.npy", np.float16, encoding.encoder.dimensions
    ) as vectors:
        for block in document_blocks(encoding, documents_on_disk):
            tokens = block.vectors
            assert isinstance(tokens, TokenVectors)
            merged_tokens = merge_similar_tokens(tokens, pool_factor)
            vectors.append(merged_tokens.rows)
            lengths.append(merged_tokens.lengths)
    write_array(folder / f"lengths-{number}.npy", np.concatenate(lengths).astype(np.uint32))
    return Segment(number=number, documents=len(documents_on_disk), tokens=vectors.rows)
