"""Pooling of token vectors: similar vectors of a document are merged (Clavié et al. 2024,
hierarchical clustering).
"""

import numpy as np
from jaxtyping import Float32

from trainer.vectors.ragged import offsets_of
from trainer.vectors.tokens import TokenVectors


def merge_similar_tokens(tokens: TokenVectors, factor: int) -> TokenVectors:
    """Returns 1/`factor` of the vectors per text, rounded up.

    Clusters of similar vectors are replaced by their mean, scaled to length 1.
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
    """Clusters by Ward's method (1963).

    It repeatedly merges the two clusters whose union has the smallest increase of the sum of
    squared distances to the means. For clusters of a and b vectors, this is a b / (a + b) times the
    squared distance of their means. Distances of a union follow from those of its parts (Lance &
    Williams 1967). The nearest cluster of each is stored, and searched again only if it was merged.
    """
    sizes = np.ones(len(vectors), np.float32)
    distances = np.maximum(
        0, 1 - vectors @ vectors.T
    )  # half the squared distance of vectors of length 1
    np.fill_diagonal(distances, np.inf)
    member_of = np.arange(len(vectors))
    nearest, smallest = distances.argmin(1), distances.min(1)
    for _ in range(len(vectors) - clusters):
        first = int(smallest.argmin())
        second = int(nearest[first])
        union = (
            (sizes[first] + sizes) * distances[first]
            + (sizes[second] + sizes) * distances[second]
            - sizes * smallest[first]
        )
        union /= sizes[first] + sizes[second] + sizes
        sizes[first] += sizes[second]
        sizes[second] = 0  # not there any more
        member_of[member_of == second] = first
        union[sizes == 0] = union[first] = np.inf
        distances[first] = distances[:, first] = union
        distances[second] = distances[:, second] = smallest[second] = np.inf
        stale = np.flatnonzero(((nearest == first) | (nearest == second)) & (sizes > 0))
        nearest[stale], smallest[stale] = distances[stale].argmin(1), distances[stale].min(1)
        nearer = union < smallest
        nearest[nearer], smallest[nearer] = first, union[nearer]
    sums = np.zeros_like(vectors)
    np.add.at(sums, member_of, vectors)
    merged_vectors = sums[sizes > 0]
    return merged_vectors / np.linalg.norm(merged_vectors, axis=1, keepdims=True).clip(min=1e-12)
