"""How hard a compressed index has to look: found by measuring when it is built, as much as its documents need."""

import numpy as np

from trainer.retrieval.late_index import LateIndex

PROBES = 16
"""Lists that are looked into for each token of a query. More cost little and find no more: 4 and 64 differ in one of a hundred documents."""
ENOUGH = 0.99
"""Candidates are doubled until this share of the ten best is found, of those that four times MOST candidates and of the probes find."""
FEWEST, MOST = 128, 1024
_QUERIES, _QUERY_TOKENS = 64, 32


def measured_effort(index: LateIndex) -> dict[str, float]:
    """Probes and candidates of a search, and the share of the ten best that they find of those which far more find.

    Measured on documents of the index taken as queries, the first 32 tokens of each, without the document itself.
    """
    segment = index.segments[0]
    rows = np.unique(np.linspace(0, segment.segment.documents - 1, _QUERIES).astype(np.int64))
    assert index.codec is not None
    decoded = segment.decoded(rows)
    vectors = [decoded.of(place)[:_QUERY_TOKENS] @ index.codec.rotation.T for place in range(len(rows))]

    def found(probes: int, candidates: int) -> list[set[int]]:
        return [
            {other for other in index.search(query[None], 11, probes, candidates)[1][0].tolist() if other not in (row, -1)}
            for row, query in zip(rows.tolist(), vectors, strict=True)
        ]

    wanted = found(4 * PROBES, 4 * MOST)
    candidates = FEWEST
    while True:
        got = found(PROBES, candidates)
        shares = [len(some & all) / len(all) for some, all in zip(got, wanted, strict=True) if all]
        share = float(np.mean(shares)) if shares else 1.0
        if share >= ENOUGH or candidates >= MOST:
            return {"probes": float(PROBES), "candidates": float(candidates), "share_of_best_10": round(share, 4)}
        candidates *= 2
