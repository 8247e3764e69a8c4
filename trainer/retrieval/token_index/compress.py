"""Token vectors to codes: the codec is learned from a segment, which is then compressed."""

import math
from pathlib import Path

import numpy as np

from trainer.progress import phase
from trainer.retrieval.token_index.codes import MOST_CENTROIDS, Codec, Codes, train
from trainer.retrieval.token_index.growing_array import GrowingArray
from trainer.retrieval.token_index.manifest import (
    Bits,
    Segment,
)
from trainer.vectors.ragged import document_ranges, offsets_of
from trainer.vectors.tokens import TokenVectors

_POINTS_A_CENTROID = 48
_TOKENS_A_CENTROID = 192
_TOKENS_FOR_WORDS = 1 << 17
_TRIED_TOKENS = 1 << 12
_TOKENS_AT_ONCE = 1 << 18


def compress_segment(folder: Path, segment: Segment, codec: Codec) -> float:
    """Puts ids and codes in the place of a segment's vectors. Returns the mean squared error of
    some.
    """
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
            some = documents.select(np.arange(first, last))
            codes = codec.encode(some)
            errors.append(_squared_error(codec, some, codes))
            ids.append(codes.ids)
            residuals.append(codes.residuals)
            means.append(codes.means)
            progress.advance(last - first)
    del documents
    (folder / f"vectors-{number}.npy").unlink()
    return float(np.mean(errors))


def _squared_error(codec: Codec, documents: TokenVectors, codes: Codes) -> float:
    """Mean squared distance of the first token vectors from what their codes give back."""
    last = document_ranges(documents.offsets, _TRIED_TOKENS)[0][1]
    tokens = slice(0, documents.offsets[last])
    decoded = codec.decode(
        Codes(codes.ids[tokens], codes.residuals[tokens], codes.means[:last]),
        documents.lengths[:last],
    )
    return float(np.square(codec.rotate(documents.rows[tokens]) - decoded).sum(1).mean())


def train_codec(folder: Path, segment: Segment, bits: Bits) -> Codec:
    """The codec that is learned from a sample of the segment's token vectors."""
    documents = segment_vectors(folder, segment)
    vectors = documents.rows
    centroids = centroid_count(len(vectors))
    sample = np.linspace(
        0, len(vectors) - 1, min(len(vectors), _POINTS_A_CENTROID * max(centroids, 256))
    ).astype(np.int64)
    whole = max(1, round(len(documents) * min(1, _TOKENS_FOR_WORDS / len(vectors))))
    some = documents.select(np.unique(np.linspace(0, len(documents) - 1, whole).astype(np.int64)))
    with phase("learning the codes"):
        return train(
            vectors[sample].astype(np.float32),
            some,
            centroids,
            code_bytes(segment, vectors.shape[1], bits, centroids),
        )


def centroid_count(tokens: int) -> int:
    """A power of two near eight times the root of the number of tokens; about one for 192 tokens at
    most, so that they stay a small part of an index.

    >>> [centroid_count(tokens) for tokens in (10, 1_000, 350_000, 4_500_000, 10**9)]
    [1, 4, 2048, 16384, 65536]
    """
    wanted = min(8 * math.sqrt(tokens), tokens / _TOKENS_A_CENTROID, MOST_CENTROIDS)
    return 2 ** max(0, round(math.log2(max(1, wanted))))


def code_bytes(segment: Segment, dimensions: int, bits: Bits, centroids: int) -> int:
    """The bytes that are left of `bits` bits a number for a token's code, once everything else that
    a search needs is paid for.

    At most `bits` bits a number and at least half of that: an index of a few documents is larger
    than it should.
    """
    most = dimensions * bits // 8

    def used(size: int) -> int:
        places = size * -(-dimensions // size)
        of_codec = 2 * centroids * dimensions + (4 * dimensions + 2 * 256) * places
        return (
            segment.tokens * (2 + size)
            + segment.documents * (4 + size)
            + of_codec
            + 128 * dimensions
            + (1 << 13)
        )

    least = max(1, most // 2)
    return max(
        (size for size in range(least, most + 1) if used(size) <= segment.tokens * most),
        default=least,
    )


def segment_vectors(folder: Path, segment: Segment) -> TokenVectors:
    """The float16 vectors of a segment that is not compressed yet, memory-mapped."""
    lengths = np.load(folder / f"lengths-{segment.number}.npy", allow_pickle=False).astype(np.int64)
    return TokenVectors(
        np.load(folder / f"vectors-{segment.number}.npy", mmap_mode="r", allow_pickle=False),
        offsets_of(lengths),
    )
