"""Compresses segments: learns the codec from one, and encodes its vectors."""

import math
from pathlib import Path

import numpy as np

from trainer.progress import phase
from trainer.retrieval.token_index.codes import MAX_CENTROIDS, Codec, Codes, train
from trainer.retrieval.token_index.growing_array import GrowingArray
from trainer.retrieval.token_index.manifest import (
    Bits,
    Segment,
)
from trainer.vectors.ragged import document_ranges, offsets_of
from trainer.vectors.tokens import TokenVectors

_POINTS_PER_CENTROID = 48
_TOKENS_PER_CENTROID = 192
_TOKENS_FOR_WORDS = 1 << 17
_TRIED_TOKENS = 1 << 12
_TOKENS_AT_ONCE = 1 << 18


def compress_segment(folder: Path, segment: Segment, codec: Codec) -> float:
    """Replaces the vectors of a segment by ids and codes; returns a mean squared error."""
    number = segment.number
    documents = segment_vectors(folder, segment)
    errors = []
    with (
        phase("compressing the vectors", len(documents), "documents") as progress,
        GrowingArray(folder / f"ids-{number}.npy", np.uint16) as ids,
        GrowingArray(folder / f"codes-{number}.npy", np.uint8, codec.code_bytes) as residuals,
        GrowingArray(folder / f"means-{number}.npy", np.uint8, codec.code_bytes) as means,
    ):
        for first, last in document_ranges(documents.offsets, _TOKENS_AT_ONCE):
            block = documents.select(np.arange(first, last))
            codes = codec.encode(block)
            errors.append(_squared_error(codec, block, codes))
            ids.append(codes.ids)
            residuals.append(codes.residuals)
            means.append(codes.means)
            progress.advance(last - first)
    del documents
    (folder / f"vectors-{number}.npy").unlink()
    return float(np.mean(errors))


def _squared_error(codec: Codec, documents: TokenVectors, codes: Codes) -> float:
    """Returns the mean squared distance of the first vectors to their decoded codes."""
    last = document_ranges(documents.offsets, _TRIED_TOKENS)[0][1]
    tokens = slice(0, documents.offsets[last])
    decoded_vectors = codec.decode(
        Codes(codes.ids[tokens], codes.residuals[tokens], codes.means[:last]),
        documents.lengths[:last],
    )
    return float(np.square(codec.rotate(documents.rows[tokens]) - decoded_vectors).sum(1).mean())


def train_codec(folder: Path, segment: Segment, bits: Bits) -> Codec:
    """Learns the codec from a sample of the token vectors of a segment."""
    documents = segment_vectors(folder, segment)
    vectors = documents.rows
    centroids = centroid_count(len(vectors))
    sample = np.linspace(
        0, len(vectors) - 1, min(len(vectors), _POINTS_PER_CENTROID * max(centroids, 256))
    ).astype(np.int64)
    document_count = max(1, round(len(documents) * min(1, _TOKENS_FOR_WORDS / len(vectors))))
    sample_documents = documents.select(
        np.unique(np.linspace(0, len(documents) - 1, document_count).astype(np.int64))
    )
    with phase("learning the codes"):
        return train(
            vectors[sample].astype(np.float32),
            sample_documents,
            centroids,
            code_bytes(segment, vectors.shape[1], bits, centroids),
        )


def centroid_count(tokens: int) -> int:
    """Returns a power of two near 8 sqrt(tokens), but at most about one per 192 tokens.

    So the centroids are a small part of an index.

    >>> [centroid_count(tokens) for tokens in (10, 1_000, 350_000, 4_500_000, 10**9)]
    [1, 4, 2048, 16384, 65536]
    """
    count = min(8 * math.sqrt(tokens), tokens / _TOKENS_PER_CENTROID, MAX_CENTROIDS)
    return 2 ** max(0, round(math.log2(max(1, count))))


def code_bytes(segment: Segment, dimensions: int, bits: Bits, centroids: int) -> int:
    """Returns the number of bytes per code that `bits` bits per component allow.

    The overhead of the index is subtracted, but at least half of the bytes remain. So a small index
    is larger than `bits` says.
    """
    max_bytes = dimensions * bits // 8

    def used(size: int) -> int:
        places = size * -(-dimensions // size)
        codec_bytes = 2 * centroids * dimensions + (4 * dimensions + 2 * 256) * places
        return (
            segment.tokens * (2 + size)
            + segment.documents * (4 + size)
            + codec_bytes
            + 128 * dimensions
            + (1 << 13)
        )

    min_bytes = max(1, max_bytes // 2)
    return max(
        (
            size
            for size in range(min_bytes, max_bytes + 1)
            if used(size) <= segment.tokens * max_bytes
        ),
        default=min_bytes,
    )


def segment_vectors(folder: Path, segment: Segment) -> TokenVectors:
    """Returns the float16 vectors of a segment that is not compressed yet, memory-mapped."""
    lengths = np.load(folder / f"lengths-{segment.number}.npy", allow_pickle=False).astype(np.int64)
    return TokenVectors(
        np.load(folder / f"vectors-{segment.number}.npy", mmap_mode="r", allow_pickle=False),
        offsets_of(lengths),
    )
