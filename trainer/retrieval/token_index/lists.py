"""Lists of documents per centroid, which select candidates (PLAID, Santhanam et al. 2022).

The lists are made at the first search, in one second per 50 million tokens, and need no space on
disk.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt16, UInt32

from trainer.vectors.ragged import document_ranges, tokens_of

_TOKENS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class TokenLists:
    """The documents of centroid c, sorted, are `documents[starts[c] : starts[c + 1]]`."""

    documents: UInt32[np.ndarray, " entry"]
    starts: Int64[np.ndarray, " centroid_plus_one"]

    @classmethod
    def of(
        cls,
        ids: UInt16[np.ndarray, " token"],
        offsets: Int64[np.ndarray, " document_plus_one"],
        centroids: int,
        is_deleted: Bool[np.ndarray, " document"],
    ) -> Self:
        """Returns the lists of a segment, without the deleted documents.

        >>> lists = TokenLists.of(
        ...     np.uint16([1, 0, 1, 1]), np.array([0, 3, 4]), 2, np.zeros(2, bool)
        ... )
        >>> lists.documents.tolist(), lists.starts.tolist()
        ([0, 0, 1], [0, 1, 3])
        """
        entries, counts = [], []
        for first, last in document_ranges(offsets, _TOKENS_AT_ONCE):
            ids_part = np.asarray(ids[offsets[first] : offsets[last]])
            token_documents = np.repeat(
                np.arange(first, last, dtype=np.uint32), np.diff(offsets[first : last + 1])
            )
            order = np.argsort(ids_part, kind="stable")  # a radix sort for numbers of two bytes
            centroid, document = ids_part[order], token_documents[order]
            new = ~is_deleted[document]
            new[1:] &= (centroid[1:] != centroid[:-1]) | (document[1:] != document[:-1])
            entries.append(document[new])
            counts.append(np.bincount(centroid[new], minlength=centroids))
        starts = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(np.sum(counts, axis=0, dtype=np.int64))]
        )
        documents, free = np.empty(starts[-1], np.uint32), starts[:-1].copy()
        for ids_part, count in zip(entries, counts, strict=True):
            documents[
                np.arange(len(ids_part)) + np.repeat(free - np.cumsum(count) + count, count)
            ] = ids_part
            free += count
        return cls(documents, starts)

    def document_scores(
        self, similarities: Float32[np.ndarray, "query_token centroid"], probes: int, documents: int
    ) -> Float32[np.ndarray, " document"]:
        """Returns the approximate score of each document, minus that of the last probed centroids.

        Each query token looks into the lists of its `probes` nearest centroids. For other
        documents, the last of these is the estimate, as in XTR (Lee et al. 2023). The score is the
        sum over tokens of (best probed - last probed).
        """
        best, total = np.empty(documents, np.float32), np.zeros(documents, np.float32)
        probes = min(probes, similarities.shape[1])
        nearest = np.argpartition(-similarities, probes - 1, axis=1)[:, :probes]
        for token, centroids in enumerate(nearest):
            near = similarities[token, centroids]
            order = (
                near.argsort()
            )  # the nearest last: of several values written to one place the last one stays
            entries = tokens_of(self.starts, centroids[order])
            rows = self.documents[entries]
            best[rows] = np.repeat(
                near[order] - near.min(),
                (self.starts[centroids + 1] - self.starts[centroids])[order],
            )
            total[rows] += best[rows]  # once for a document that stands there twice
        return total
