"""Fewer vectors for a document: those that say nearly the same become one (Clavié et al. 2024,
hierarchical clustering).
"""

import numpy as np
from jaxtyping import Float32

from trainer.vectors.ragged import offsets_of
from trainer.vectors.tokens import TokenVectors


def merge_similar_tokens(tokens: TokenVectors, factor: int) -> TokenVectors:
    """About one vector in `factor` for every text: clusters of similar vectors, each replaced by
    its mean, scaled to length 1.

    A text of n vectors keeps n / factor of them, rounded up.
    """
    if factor == 1:
        return tokens
    parts = [
        _pool(tokens[text].astype(np.float32), -(-int(length) // factor))
        for text, length in enumerate(tokens.lengths)
    ]
    return TokenVectors(
        np.concatenate(parts) if parts else tokens.rows,
        offsets_of(np.array([len(part) for part in parts], dtype=np.int64)),
    )


def _pool(
    vectors: Float32[np.ndarray, "token dimension"], clusters: int
) -> Float32[np.ndarray, "cluster dimension"]:
    """Ward's method (1963): again and again the two clusters whose union adds least to the sum of
    squared distances from the means.

    For clusters of a and b vectors that is a b / (a + b) times the squared distance of their means.
    Distances of a union follow from those of its parts (Lance & Williams 1967); each cluster's
    nearest is kept, and found anew only where it was one of the two.
    """
    sizes = np.ones(len(vectors), np.float32)
    distances = np.maximum(
        0, 1 - vectors @ vectors.T
    )  # half the squared distance of vectors of length 1
    np.fill_diagonal(distances, np.inf)
    member_of = np.arange(len(vectors))
    nearest, least = distances.argmin(1), distances.min(1)
    for _ in range(len(vectors) - clusters):
        one = int(least.argmin())
        other = int(nearest[one])
        union = (
            (sizes[one] + sizes) * distances[one]
            + (sizes[other] + sizes) * distances[other]
            - sizes * least[one]
        )
        union /= sizes[one] + sizes[other] + sizes
        sizes[one] += sizes[other]
        sizes[other] = 0  # not there any more
        member_of[member_of == other] = one
        union[sizes == 0] = union[one] = np.inf
        distances[one] = distances[:, one] = union
        distances[other] = distances[:, other] = least[other] = np.inf
        stale = np.flatnonzero(((nearest == one) | (nearest == other)) & (sizes > 0))
        nearest[stale], least[stale] = distances[stale].argmin(1), distances[stale].min(1)
        nearer = union < least
        nearest[nearer], least[nearer] = one, union[nearer]
    sums = np.zeros_like(vectors)
    np.add.at(sums, member_of, vectors)
    pooled = sums[sizes > 0]
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True).clip(min=1e-12)
