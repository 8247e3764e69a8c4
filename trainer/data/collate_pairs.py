"""Rows to a `Batch` of a cross-encoder: every query with each of its candidates, as pairs."""

from collections.abc import Callable, Mapping, Sequence

import torch

from trainer.batch import Batch, Texts, identity, pair_identity
from trainer.data.collate import Tokenize, candidates, labels
from trainer.data.rows import Row

TokenizePairs = Callable[[Sequence[str], Sequence[str]], Texts]


def collate_pairs(
    rows: Sequence[Row],
    tokenize: Tokenize,
    tokenize_pairs: TokenizePairs,
    known_positives: Mapping[int, frozenset[int]],
    negatives_per_query: int,
) -> Batch:
    """As `collate`, with pairs of query and candidate as documents. Known positives, and the
    query's own text, are named as such pairs too.

    Raises BadData for a row without any negative where some are asked for.
    """
    pairs = [(row.query, text) for row in rows for text in candidates(row, negatives_per_query)]
    known = [_known(identity(row.query), identity(row.positive), known_positives) for row in rows]
    widest = max(map(len, known))
    return Batch(
        queries=tokenize([row.query for row in rows], "query"),
        documents=tokenize_pairs(
            [query for query, _ in pairs], [document for _, document in pairs]
        ),
        known_positives=torch.tensor([names + [-1] * (widest - len(names)) for names in known]),
        labels=labels(rows, negatives_per_query),
        sample_ids=tuple(row.source for row in rows),
    )


def _known(query: int, positive: int, known_positives: Mapping[int, frozenset[int]]) -> list[int]:
    right = {query, positive, *known_positives.get(query, ())}
    return [pair_identity(query, document) for document in sorted(right)]
