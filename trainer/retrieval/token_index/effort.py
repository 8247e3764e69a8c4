"""How hard a compressed index has to look: found by measuring when it is built, as much as its
documents need.
"""

import numpy as np

from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import encode
from trainer.retrieval.token_index.index import TokenIndex

PROBES = 16
"""Lists that are looked into for each token of a query. More cost little and find no more: 4 and 64
differ in one of a hundred documents.
"""
ENOUGH = 0.995
"""Candidates are doubled until this share of the ten best is found, of those that four times MOST
candidates and of the probes find.
"""
FEWEST, MOST = 256, 1024
_QUERIES, _CHARACTERS = 64, 80


def measured_effort(index: TokenIndex, encoder: VectorEncoder) -> dict[str, float]:
    """Probes and candidates of a search, and the share of the ten best that they find of those
    which far more find.

    Measured on a few words out of the middle of some documents, encoded as queries, without the
    document itself. Vectors of the documents would not do: a query has markers and masks that no
    document has, and is harder to find documents for.
    """
    there = index.live_rows()
    rows = there[np.unique(np.linspace(0, len(there) - 1, _QUERIES).astype(np.int64))].tolist()
    texts = [index.document(row).full_text for row in rows]
    queries = encode(encoder, [text[len(text) // 3 :][:_CHARACTERS] for text in texts], "query")
    asked = [(row, queries[place]) for place, row in enumerate(rows) if queries.lengths[place]]

    def found(probes: int, candidates: int) -> list[set[int]]:
        return [
            {
                other
                for other in index.search(query[None], 11, probes, candidates)[1][0].tolist()
                if other not in (row, -1)
            }
            for row, query in asked
        ]

    wanted = found(4 * PROBES, 4 * MOST)
    candidates = FEWEST
    while True:
        got = found(PROBES, candidates)
        shares = [len(some & all) / len(all) for some, all in zip(got, wanted, strict=True) if all]
        share = float(np.mean(shares)) if shares else 1.0
        if share >= ENOUGH or candidates >= MOST:
            return {
                "probes": float(PROBES),
                "candidates": float(candidates),
                "share_of_best_10": round(share, 4),
            }
        candidates *= 2
