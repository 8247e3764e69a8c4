"""Negatives that are mined anew while training: before which steps, and what of them a row gets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from trainer.data.collate import candidates
from trainer.data.rows import Row


@dataclass(frozen=True)
class Boundaries:
    """Before which steps, counted from 0, negatives are mined anew: `first_step`, and from there on
    after every so many.
    """

    first_step: int
    every_steps: int

    def latest(self, step: int) -> int | None:
        """The last boundary at or before `step`; None where there is none yet.

        >>> [Boundaries(first_step=2, every_steps=3).latest(step) for step in (1, 2, 4, 5)]
        [None, 2, 2, 5]
        """
        return (
            None if step < self.first_step else step - (step - self.first_step) % self.every_steps
        )

    def spans(self, first: int, last: int) -> Iterator[range]:
        """The steps `first` up to `last`, cut at the boundaries.

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
    """What was mined at one boundary, by the identities of texts (`trainer.batch.identity`)."""

    table: Int64[np.ndarray, "query candidate"]
    """Of each query, in ascending order, itself and its negatives, filled up with -1."""

    def of(self, query: int) -> Int64[np.ndarray, " negative"]:
        """The negatives of a query, the first mined first. Raises KeyError for one that was not
        asked for at that boundary.

        >>> MinedNegatives(np.array([[3, 7, 8], [5, 9, -1]])).of(5).tolist()
        [9]
        """
        place = int(np.searchsorted(self.table[:, 0], query))
        if place == len(self.table) or self.table[place, 0] != query:
            raise KeyError(query)
        negatives = self.table[place, 1:]
        return negatives[negatives >= 0]


def with_mined(row: Row, own: int, mined: Sequence[str], count: int) -> Row:
    """The row with `own` negatives of the data and up to `count` mined ones; its positive stands in
    for those that are missing, and counts for nobody.

    >>> with_mined(Row("q", "a", ("b",)), own=1, mined=["c"], count=2).negatives
    ('b', 'c', 'a')
    """
    return replace(
        row,
        negatives=(*candidates(row, own)[1:], *mined, *[row.positive] * (count - len(mined))),
        labels=None,
    )
