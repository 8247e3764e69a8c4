"""Random negatives for rows without negatives: positives of other rows of the global batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from trainer.batch import identity
from trainer.data.order import permute
from trainer.data.rows import Row


@dataclass(frozen=True, eq=False)
class RandomNegatives:
    """Draws `count` negatives per row.

    The draw is a pure function of the seed, the step and the global batch: it is the same on any
    number of ranks.
    """

    rows: Sequence[Row]
    known_positives: Mapping[int, frozenset[int]]
    seed: int
    count: int

    def row_with_negatives(self, step: int, samples: Int[np.ndarray, " sample"], place: int) -> Row:
        """Returns the row at `place` of the global batch of `step`, with its negatives.

        The negatives are distinct texts. None is a known positive of the query, or the query. If
        the batch has too few, the row's positive fills up: no objective counts it, since it is a
        known positive.
        """
        row = self.rows[int(samples[place])]
        query = identity(row.query)
        excluded_texts = {query, identity(row.positive), *self.known_positives.get(query, ())}
        negatives: list[str] = []
        for position in permute(
            np.arange(len(samples)),
            len(samples),
            key=identity(f"negatives {self.seed} {step} {place}"),
        ):
            if len(negatives) == self.count:
                break
            text = self.rows[int(samples[position])].positive
            if (text_identity := identity(text)) not in excluded_texts:
                excluded_texts.add(text_identity)
                negatives.append(text)
        padding = [row.positive] * (self.count - len(negatives))
        return replace(row, negatives=(*negatives, *padding), labels=None)
