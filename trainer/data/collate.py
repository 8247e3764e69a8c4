"""Rows to a `Batch`: candidates chosen, texts tokenised, identities and known positives beside
them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.batch import Batch, Texts, identity
from trainer.data.rows import Row
from trainer.errors import BadData

Tokenize = Callable[[Sequence[str], Literal["query", "document"]], Texts]


def collate(
    rows: Sequence[Row],
    tokenize: Tokenize,
    known_positives: Mapping[int, frozenset[int]],
    negatives_per_query: int,
) -> Batch:
    """One batch: each query with its positive first and then `negatives_per_query` hard negatives.

    A row with fewer negatives repeats its own; one with none at all raises `BadData`.
    """
    queries = tokenize([row.query for row in rows], "query")
    documents = tokenize(
        [text for row in rows for text in candidates(row, negatives_per_query)], "document"
    )
    known = [
        sorted(known_positives.get(identity(row.query), {identity(row.positive)})) for row in rows
    ]
    widest = max(map(len, known))
    return Batch(
        queries=queries,
        documents=documents,
        known_positives=torch.tensor([list_ + [-1] * (widest - len(list_)) for list_ in known]),
        labels=labels(rows, negatives_per_query),
        sample_ids=tuple(row.source for row in rows),
    )


def candidates(row: Row, negatives: int) -> list[str]:
    """The positive and `negatives` hard negatives, which repeat where the row has fewer; BadData
    where it has none.
    """
    if negatives and not row.negatives:
        raise BadData(
            f"{row.source}: this row has no negative, but data.negatives_per_query is {negatives}."
            " Give every row at least one negative, or set data.negatives_per_query=0 to train on"
            " in-batch negatives alone."
        )
    return [
        row.positive,
        *(row.negatives[number % len(row.negatives)] for number in range(negatives)),
    ]


def labels(rows: Sequence[Row], negatives: int) -> Float[Tensor, "query candidate"] | None:
    """The data's score of every candidate; None when a row does not have one for each."""
    found = [_scores_of_candidates(row, negatives) for row in rows]
    return None if None in found else torch.tensor(found, dtype=torch.float32)


def _scores_of_candidates(row: Row, negatives: int) -> list[float] | None:
    """One score a candidate, in the order of `candidates`. A scored pair has one, for its positive
    alone.
    """
    if row.labels is None or (negatives and len(row.labels) != 1 + len(row.negatives)):
        return None
    return [
        row.labels[0],
        *(row.labels[1 + number % len(row.negatives)] for number in range(negatives)),
    ]
