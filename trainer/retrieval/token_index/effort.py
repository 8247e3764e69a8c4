"""Measures the search effort that a compressed index needs, when it is built."""

import numpy as np

from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import encode
from trainer.retrieval.token_index.index import TokenIndex

PROBES = 16
"""The number of lists per query token. More lists cost little and find no more: 4 and 64 differ in
one of 100 documents.
"""
TARGET_SHARE = 0.995
"""Candidates are doubled until the search finds this share of the ten best documents.

The reference is a search with four times `PROBES` and `MAX_CANDIDATES`.
"""
MIN_CANDIDATES, MAX_CANDIDATES = 256, 1024
_QUERIES, _CHARACTERS = 64, 80


def measure_effort(index: TokenIndex, encoder: VectorEncoder) -> dict[str, float]:
    """Returns probes and candidates of a search, and the share of the ten best that it finds.

    Queries are a few words from the middle of some documents, without the document itself as a
    result. Document vectors would not do: queries have markers and mask tokens, and are harder.
    """
    live_rows = index.live_rows()
    rows = live_rows[
        np.unique(np.linspace(0, len(live_rows) - 1, _QUERIES).astype(np.int64))
    ].tolist()
    texts = [index.document(row).full_text for row in rows]
    queries = encode(encoder, [text[len(text) // 3 :][:_CHARACTERS] for text in texts], "query")
    query_vectors = [
        (row, queries[place]) for place, row in enumerate(rows) if queries.lengths[place]
    ]

    def best_rows(probes: int, candidates: int) -> list[set[int]]:
        return [
            {
                neighbour
                for neighbour in index.search(query[None], 11, probes, candidates)[1][0].tolist()
                if neighbour not in (row, -1)
            }
            for row, query in query_vectors
        ]

    reference = best_rows(4 * PROBES, 4 * MAX_CANDIDATES)
    candidates = MIN_CANDIDATES
    while True:
        found_rows = best_rows(PROBES, candidates)
        shares = [
            len(rows_found & best) / len(best)
            for rows_found, best in zip(found_rows, reference, strict=True)
            if best
        ]
        share = float(np.mean(shares)) if shares else 1.0
        if share >= TARGET_SHARE or candidates >= MAX_CANDIDATES:
            return {
                "probes": float(PROBES),
                "candidates": float(candidates),
                "share_of_best_10": round(share, 4),
            }
        candidates *= 2
