"""Negatives that are mined again during training: before which steps, and which ones a row gets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from trainer.data.collate import row_candidates
from trainer.data.rows import Row


@dataclass(frozen=True)
class Boundaries:
    """The steps, counted from 0, before which negatives are mined: `first_step`, and then every
    `every_steps` steps.
    """

    first_step: int
    every_steps: int

    def latest(self, step: int) -> int | None:
        """Returns the last boundary at or before `step`, or None before the first one.

        >>> [Boundaries(first_step=2, every_steps=3).latest(step) for step in (1, 2, 4, 5)]
        [None, 2, 2, 5]
        """
        return (
            None if step < self.first_step else step - (step - self.first_step) % self.every_steps
        )

    def spans(self, first: int, last: int) -> Iterator[range]:
        """Yields the steps from `first` up to `last`, divided at the boundaries.

        >>> list(Boundaries(first_step=2, every_steps=3).spans(0, 7))
        [range(0, 2), range(2, 5), range(5, 7)]
        """
        while first < last:
            boundary = self.latest(first)
            stop = min(last, self.first_step if boundary is None else boundary + self.every_steps)
            yield range(first, stop)
            first = stop


@dataclass(frozen=True, eq=False)
class MinedNegatives:
    """The negatives mined at one boundary, as identities of texts (`trainer.batch.identity`)."""

    table: Int64[np.ndarray, "query candidate"]
    """One line per query, in ascending order: the query, its negatives, and -1 as padding."""

    def of(self, query: int) -> Int64[np.ndarray, " negative"]:
        """Returns the negatives of a query, in the order in which they were mined.

        Raises KeyError for a query that was not mined at this boundary.

        >>> MinedNegatives(np.array([[3, 7, 8], [5, 9, -1]])).of(5).tolist()
        [9]
        """
        place = int(np.searchsorted(self.table[:, 0], query))
        if place == len(self.table) or self.table[place, 0] != query:
            raise KeyError(query)
        negatives = self.table[place, 1:]
        return negatives[negatives >= 0]


def add_mined_negatives(
    row: Row, row_negatives: int, mined_texts: Sequence[str], count: int
) -> Row:
    """Returns the row with `row_negatives` negatives of its own and `count` mined ones.

    If there are fewer mined texts, the row's positive fills up; no objective counts it.

    >>> row = Row("q", "a", ("b",))
    >>> add_mined_negatives(row, row_negatives=1, mined_texts=["c"], count=2).negatives
    ('b', 'c', 'a')
    """
    padding = [row.positive] * (count - len(mined_texts))
    negatives = (*row_candidates(row, row_negatives)[1:], *mined_texts, *padding)
    return replace(row, negatives=negatives, labels=None)
