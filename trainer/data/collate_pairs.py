"""Turns rows into a `Batch` of a cross-encoder: one pair per query and candidate."""

from collections.abc import Callable, Mapping, Sequence

from trainer.batch import Batch, Texts, identity, pair_identity
from trainer.data.collate import Tokenize, candidate_labels, pad_identities, row_candidates
from trainer.data.rows import Row

TokenizePairs = Callable[[Sequence[str], Sequence[str]], Texts]


def collate_pairs(
    rows: Sequence[Row],
    tokenize: Tokenize,
    tokenize_pairs: TokenizePairs,
    known_positives: Mapping[int, frozenset[int]],
    negatives_per_query: int,
) -> Batch:
    """Returns a batch like that of `collate`, whose documents are pairs of query and candidate.

    The known positives are identities of such pairs; the pair of the query with itself is one of
    them. Raises BadData for a row without negatives if `negatives_per_query` is above 0.
    """
    pairs = [(row.query, text) for row in rows for text in row_candidates(row, negatives_per_query)]
    positives = [
        _known_pairs(identity(row.query), identity(row.positive), known_positives) for row in rows
    ]
    return Batch(
        queries=tokenize([row.query for row in rows], "query"),
        documents=tokenize_pairs(
            [query for query, _ in pairs], [document for _, document in pairs]
        ),
        known_positives=pad_identities(positives),
        labels=candidate_labels(rows, negatives_per_query),
        sample_ids=tuple(row.source for row in rows),
    )


def _known_pairs(
    query: int, positive: int, known_positives: Mapping[int, frozenset[int]]
) -> list[int]:
    documents = {query, positive, *known_positives.get(query, ())}
    return [pair_identity(query, document) for document in sorted(documents)]
