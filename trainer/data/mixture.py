"""Several training sets in one order: from which set a sample or a batch comes is computed, not
drawn, and nothing is stored.

Set j, of weight w_j, is due at the times (2n + 1) / (2 w_j) for n = 0, 1, 2, ...: w_j times in
every unit of time, in the middle of equal spans. The order is the merge of all these times, and
where several sets are due at once, the one named first goes first. This is the divisor method of
Webster and Sainte-Laguë, one seat after the other. With W the sum of the weights and k sets it
follows that

- after p turns, set j has had p w_j / W of them, to within 1/2 + k w_j / (2 W), and exactly that
  whenever W divides p;
- how many turns each set has had before turn p is found without walking there (`turns_before`), so
  any step can be computed alone.

A turn is a sample, or a whole batch of one set. Each set is a stream of permutations of its own
(`trainer.data.order.stream_samples`).
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd, lcm

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from trainer.data.order import stream_samples
from trainer.data.readers.report import ReadReport
from trainer.data.rows import Rows
from trainer.errors import BadData, BadRecipe


def whole_weights(weights: Sequence[float | int]) -> tuple[int, ...]:
    """The smallest whole numbers in the same proportion, taking each weight for the decimal number
    it is written as.

    >>> whole_weights([0.7, 0.3]), whole_weights([2, 1, 0.5])
    ((7, 3), (4, 2, 1))
    """
    fractions = [Fraction(str(weight)) for weight in weights]
    unit = lcm(*(fraction.denominator for fraction in fractions))
    whole = [int(fraction * unit) for fraction in fractions]
    return tuple(weight // gcd(*whole) for weight in whole)


def turns_before(weights: Sequence[int], position: int) -> list[int]:
    """How many of the first `position` turns each set has had.

    All turns due by the time position / W are round(position w_j / W) for each set, a half rounded
    up; they are `position` together but for at most half the number of sets, so the few last ones
    are taken back, or the few next ones added.

    Weights 2 and 1 are due at 1/4, 3/4, 5/4, 7/4, ... and at 1/2, 3/2, ...: the order is 0 1 0 0 1
    0 ...

    >>> turns_before((2, 1), 2), turns_before((2, 1), 4), turns_before((2, 1), 3_000_000)
    ([1, 1], [3, 1], [2000000, 1000000])
    """
    total = sum(weights)
    counts = [(2 * position * weight + total) // (2 * total) for weight in weights]
    while sum(counts) < position:
        counts[
            min(
                range(len(counts)),
                key=lambda source: (Fraction(2 * counts[source] + 1, weights[source]), source),
            )
        ] += 1
    while sum(counts) > position:
        counts[
            max(
                range(len(counts)),
                key=lambda source: (Fraction(2 * counts[source] - 1, weights[source]), source),
            )
        ] -= 1
    return counts


def turns(
    weights: Sequence[int], first: int, count: int
) -> tuple[Int[np.ndarray, " turn"], Int[np.ndarray, " turn"]]:
    """Of `count` turns from number `first` on: whose each is, and how many that set had before it.

    >>> sources, ordinals = turns((2, 1), first=0, count=6)
    >>> sources.tolist(), ordinals.tolist()
    ([0, 1, 0, 0, 1, 0], [0, 0, 1, 2, 1, 3])
    """
    common = lcm(*weights)  # times as whole numbers: no rounding can change the order
    counts = turns_before(weights, first)
    due = [
        ((2 * counts[source] + 1) * (common // weight), source)
        for source, weight in enumerate(weights)
    ]
    heapq.heapify(due)
    found = np.empty((2, count), np.int64)
    for turn in range(count):
        time, source = due[0]
        found[:, turn] = source, counts[source]
        counts[source] += 1
        heapq.heapreplace(due, (time + 2 * (common // weights[source]), source))
    return found[0], found[1]


@dataclass(frozen=True)
class Mixture:
    """Several data sets whose rows stand end to end in one `Rows`, and how they take turns."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """Rows of each set, in the order in which they stand."""
    weights: tuple[int, ...]
    """Turns of each set in every sum of the weights."""
    one_source_per_batch: bool = False
    """A turn is a batch, not a sample."""

    def batch_samples(self, seed: int, step: int, batch_size: int) -> Int[np.ndarray, " sample"]:
        """The sample numbers, over all sets end to end, of the global batch of optimizer step
        `step`, counted from 0 over all epochs.

        >>> mixture = Mixture(("a", "b"), sizes=(4, 2), weights=(2, 1))
        >>> one_pass = np.concatenate(
        ...     [mixture.batch_samples(0, step, batch_size=3) for step in range(2)]
        ... )
        >>> sorted(one_pass.tolist())
        [0, 1, 2, 3, 4, 5]
        """
        if self.one_source_per_batch:
            sources, batches = turns(self.weights, step, 1)
            sources, ordinals = sources.repeat(batch_size), batches * batch_size + np.arange(
                batch_size
            )
        else:
            sources, ordinals = turns(self.weights, step * batch_size, batch_size)
        starts = np.cumsum([0, *self.sizes])
        samples = np.empty(batch_size, np.int64)
        for source in np.unique(sources).tolist():
            own = sources == source
            samples[own] = starts[source] + stream_samples(ordinals[own], self.sizes[source], seed, source)
        return samples

    def check_batch(self, batch_size: int) -> None:
        """Raises BadData when a set has fewer rows than it gives to one batch: a row would stand in
        it twice.
        """
        for name, size, weight in zip(self.names, self.sizes, self.weights, strict=True):
            share = (
                Fraction(batch_size)
                if self.one_source_per_batch
                else Fraction(batch_size * weight, sum(self.weights))
            )
            if share > size:
                raise BadData(
                    f"{name} has {size} training rows, and {float(share):.4g} of the {batch_size}"
                    " rows of a batch would come from it, so some twice. Give it more rows"
                    + (
                        ", set data.mixing=samples"
                        if self.one_source_per_batch
                        else ", a smaller weight in data.train"
                    )
                    + ", or set a smaller optimization.batch_size."
                )

    def summary(self, steps: int, batch_size: int) -> str:
        """One line: the share of each set, its rows, and how often a run of so many steps goes
        through them.

        >>> Mixture(("a.jsonl", "b.csv"), sizes=(400, 20), weights=(1, 1)).summary(
        ...     steps=20, batch_size=10
        ... )
        'mixture of samples: a.jsonl 50% (400 rows, seen 0.25 times each); b.csv 50% (20 rows, seen 5 times each: it repeats)'
        """
        taken = turns_before(
            self.weights, steps if self.one_source_per_batch else steps * batch_size
        )
        parts = []
        for name, size, weight, count in zip(
            self.names, self.sizes, self.weights, taken, strict=True
        ):
            times = count * (batch_size if self.one_source_per_batch else 1) / size
            repeats = ": it repeats" if times > max(1, steps * batch_size / sum(self.sizes)) else ""
            parts.append(
                f"{name} {100 * weight / sum(self.weights):.3g}% ({size:,} rows, seen {times:.2g}"
                f" times each{repeats})"
            )
        return (
            f"mixture of {'batches' if self.one_source_per_batch else 'samples'}:"
            f" {'; '.join(parts)}"
        )


def check_weights(weights: Sequence[float | None]) -> None:
    """Raises BadRecipe when some sets have a weight and others none."""
    given = sum(weight is not None for weight in weights)
    if 0 < given < len(weights):
        raise BadRecipe(
            f"data.train gives a weight to {given} of its {len(weights)} sets, which leaves the"
            " shares of the others open; give each set a weight, or none, which takes their"
            " numbers of rows"
        )


def end_to_end(sets: Sequence[Rows]) -> Rows:
    """The rows of all sets, one set after the other, without a copy.

    >>> from trainer.data.rows import Row
    >>> [row.query for row in end_to_end([Rows.of([Row("a", "b")]), Rows.of([Row("c", "d")])])]
    ['a', 'c']
    """
    if len(sets) == 1:
        return sets[0]
    report = ReadReport(
        source=", ".join(rows.report.source for rows in sets),
        rows_read=sum(rows.report.rows_read for rows in sets),
        rows_kept=sum(len(rows) for rows in sets),
    )
    return replace(sets[0], table=pa.concat_tables([rows.table for rows in sets]), report=report)


def mixed(
    sets: Sequence[Rows], left: Rows, weights: Sequence[float | None], one_source_per_batch: bool
) -> Mixture:
    """The mixture of `sets`, of whose rows end to end only those in `left` remained, in their
    order.

    Raises BadData when nothing is left of a set, and BadRecipe when only some have a weight.
    """
    check_weights(weights)
    ends = np.cumsum([0, *map(len, sets)])
    chosen = np.arange(len(left)) if left.chosen is None else left.chosen
    sizes = tuple(np.diff(np.searchsorted(chosen, ends)).tolist())
    names = tuple(rows.report.source for rows in sets)
    for name, size in zip(names, sizes, strict=True):
        if size == 0:
            raise BadData(
                f"{name}: all its rows are held out for validation, or are near-identical to such;"
                " give it more rows, or a validation set of its own: data.validation=FILE."
            )
    given = [weight for weight in weights if weight is not None]
    return Mixture(names, sizes, whole_weights(given or sizes), one_source_per_batch)
