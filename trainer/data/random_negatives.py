"""Negatives for rows that have none: positives of other rows of the same global batch, chosen at
random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from trainer.batch import identity
from trainer.data.order import permuted
from trainer.data.rows import Row


@dataclass(frozen=True, eq=False)
class RandomNegatives:
    """`count` negatives a row. A pure function of the seed, the step and the global batch: the same
    on any number of ranks.
    """

    rows: Sequence[Row]
    known_positives: Mapping[int, frozenset[int]]
    seed: int
    count: int

    def given(self, step: int, samples: Int[np.ndarray, " sample"], place: int) -> Row:
        """The row at `place` of the global batch of `step`, with its negatives: distinct texts,
        none a known positive of its query or the query itself.

        Where the batch has too few, the row's own positive fills up: it is known to be right, so no
        objective counts it.
        """
        row = self.rows[int(samples[place])]
        query = identity(row.query)
        taken = {query, identity(row.positive), *self.known_positives.get(query, ())}
        chosen: list[str] = []
        for other in permuted(
            np.arange(len(samples)),
            len(samples),
            key=identity(f"negatives {self.seed} {step} {place}"),
        ):
            if len(chosen) == self.count:
                break
            text = self.rows[int(samples[other])].positive
            if (name := identity(text)) not in taken:
                taken.add(name)
                chosen.append(text)
        return replace(
            row, negatives=(*chosen, *[row.positive] * (self.count - len(chosen))), labels=None
        )
