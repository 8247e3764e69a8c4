"""Turns rows into a `Batch`: selects candidates, tokenises texts and adds the known positives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
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
    """Returns a batch of queries, each with its positive and `negatives_per_query` negatives.

    A row with fewer negatives repeats its own. Raises BadData for a row without negatives.
    """
    queries = tokenize([row.query for row in rows], "query")
    documents = tokenize(
        [text for row in rows for text in row_candidates(row, negatives_per_query)], "document"
    )
    positives = [
        sorted(known_positives.get(identity(row.query), {identity(row.positive)})) for row in rows
    ]
    return Batch(
        queries=queries,
        documents=documents,
        known_positives=pad_identities(positives),
        labels=candidate_labels(rows, negatives_per_query),
        sample_ids=tuple(row.source for row in rows),
    )


def pad_identities(
    identities: Sequence[Sequence[int]],
) -> Int64[Tensor, "query known_positive"]:
    """Returns the identities of each query as one line, padded with -1.

    >>> pad_identities([[5], [6, 7]]).tolist()
    [[5, -1], [6, 7]]
    """
    width = max(map(len, identities))
    return torch.tensor([[*line, *[-1] * (width - len(line))] for line in identities])


def row_candidates(row: Row, negatives: int) -> list[str]:
    """Returns the positive and `negatives` hard negatives, which repeat if the row has fewer.

    Raises BadData if the row has none.
    """
    if negatives and not row.negatives:
        raise BadData(
            f"{row.source}: this row has no negative, but data.negatives_per_query is {negatives}."
            " Give every row at least one negative, or set data.negatives_per_query=0 to train on"
            " in-batch negatives only."
        )
    return [
        row.positive,
        *(row.negatives[number % len(row.negatives)] for number in range(negatives)),
    ]


def candidate_labels(
    rows: Sequence[Row], negatives: int
) -> Float[Tensor, "query candidate"] | None:
    """Returns the scores of all candidates from the data, or None if one has no score."""
    scores = [_candidate_scores(row, negatives) for row in rows]
    return None if None in scores else torch.tensor(scores, dtype=torch.float32)


def _candidate_scores(row: Row, negatives: int) -> list[float] | None:
    """Returns the scores in the order of `row_candidates`, or None if one candidate has none."""
    if row.labels is None or (negatives and len(row.labels) != 1 + len(row.negatives)):
        return None
    return [
        row.labels[0],
        *(row.labels[1 + number % len(row.negatives)] for number in range(negatives)),
    ]
