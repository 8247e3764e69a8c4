"""Mixes several training sets in one order; the set of each sample or batch is computed, not drawn.

Set j with weight w_j is due at the times (2n + 1) / (2 w_j) for n = 0, 1, 2, ... These are w_j
times in every unit of time, in the middle of equal spans. The order is the merge of all these
times. If several sets are due at the same time, the first set of the list comes first. This is the
divisor method of Webster and Sainte-Laguë, one seat after the other. With W the sum of the weights
and k sets it follows that

- after p turns, set j has had p w_j / W of them, to within 1/2 + k w_j / (2 W), and exactly that
  whenever W divides p;
- the number of turns of each set before turn p has a closed form (`turns_before`), so every step
  can be computed separately.

A turn is a sample, or a whole batch of one set. Each set has its own stream of permutations
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
    """Returns the smallest integers in the same proportion as the weights.

    Each weight counts as the decimal number that it is printed as.

    >>> whole_weights([0.7, 0.3]), whole_weights([2, 1, 0.5])
    ((7, 3), (4, 2, 1))
    """
    fractions = [Fraction(str(weight)) for weight in weights]
    unit = lcm(*(fraction.denominator for fraction in fractions))
    numbers = [int(fraction * unit) for fraction in fractions]
    return tuple(number // gcd(*numbers) for number in numbers)


def turns_before(weights: Sequence[int], position: int) -> list[int]:
    """Returns the number of turns of each set among the first `position` turns.

    By the time position / W, set j has had round(position w_j / W) turns, a half rounded up. Their
    sum differs from `position` by at most half the number of sets, so the last few turns are taken
    back, or the next few are added.

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
    """`count` turns from number `first` on: the set of each turn, and how many turns that set had
    before it.

    >>> sources, ordinals = turns((2, 1), first=0, count=6)
    >>> sources.tolist(), ordinals.tolist()
    ([0, 1, 0, 0, 1, 0], [0, 0, 1, 2, 1, 3])
    """
    unit = lcm(*weights)  # times are whole numbers, so no rounding can change the order
    counts = turns_before(weights, first)
    schedule = [
        ((2 * counts[source] + 1) * (unit // weight), source)
        for source, weight in enumerate(weights)
    ]
    heapq.heapify(schedule)
    sources, ordinals = np.empty(count, np.int64), np.empty(count, np.int64)
    for turn in range(count):
        time, source = schedule[0]
        sources[turn], ordinals[turn] = source, counts[source]
        counts[source] += 1
        heapq.heapreplace(schedule, (time + 2 * (unit // weights[source]), source))
    return sources, ordinals


@dataclass(frozen=True)
class Mixture:
    """Several data sets, concatenated in one `Rows`, and how they take turns."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """The number of rows of each set, in the order of the concatenation."""
    weights: tuple[int, ...]
    """The number of turns of each set per `sum(weights)` turns."""
    one_source_per_batch: bool = False
    """True if a turn is a batch, False if it is a sample."""

    def batch_samples(self, seed: int, step: int, batch_size: int) -> Int[np.ndarray, " sample"]:
        """Returns the sample numbers of the global batch of optimizer step `step`.

        Samples are numbered over the concatenation of all sets, steps from 0 over all epochs.

        >>> mixture = Mixture(("a", "b"), sizes=(4, 2), weights=(2, 1))
        >>> one_pass = np.concatenate(
        ...     [mixture.batch_samples(0, step, batch_size=3) for step in range(2)]
        ... )
        >>> sorted(one_pass.tolist())
        [0, 1, 2, 3, 4, 5]
        """
        if self.one_source_per_batch:
            sources, batches = turns(self.weights, step, 1)
            sources, ordinals = (
                sources.repeat(batch_size),
                batches * batch_size + np.arange(batch_size),
            )
        else:
            sources, ordinals = turns(self.weights, step * batch_size, batch_size)
        starts = np.cumsum([0, *self.sizes])
        samples = np.empty(batch_size, np.int64)
        for source in np.unique(sources).tolist():
            is_source = sources == source
            samples[is_source] = starts[source] + stream_samples(
                ordinals[is_source], self.sizes[source], seed, source
            )
        return samples

    def check_batch(self, batch_size: int) -> None:
        """Raises BadData if a batch takes more rows from a set than the set has."""
        for name, size, weight in zip(self.names, self.sizes, self.weights, strict=True):
            share = (
                Fraction(batch_size)
                if self.one_source_per_batch
                else Fraction(batch_size * weight, sum(self.weights))
            )
            if share > size:
                raise BadData(
                    f"{name} has {size} training rows, but {float(share):.4g} of the {batch_size}"
                    " rows of a batch would come from it, so some would be repeated. Give it more"
                    " rows"
                    + (
                        ", set data.mixing=samples"
                        if self.one_source_per_batch
                        else ", a smaller weight in data.train"
                    )
                    + ", or set a smaller optimization.batch_size."
                )

    def summary(self, steps: int, batch_size: int) -> str:
        """Describes in one line the share and rows of each set, and how often a run uses them.

        >>> mixture = Mixture(("a.jsonl", "b.csv"), sizes=(400, 20), weights=(1, 1))
        >>> mixture.summary(steps=20, batch_size=10).split("; ")[1]
        'b.csv 50% (20 rows, seen 5 times each: it repeats)'
        """
        counts = turns_before(
            self.weights, steps if self.one_source_per_batch else steps * batch_size
        )
        parts = []
        for name, size, weight, count in zip(
            self.names, self.sizes, self.weights, counts, strict=True
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
    """Raises BadRecipe if some sets have a weight and others have none."""
    weighted_sets = sum(weight is not None for weight in weights)
    if 0 < weighted_sets < len(weights):
        raise BadRecipe(
            f"data.train gives a weight to {weighted_sets} of its {len(weights)} sets, which leaves"
            " the shares of the others open; give each set a weight, or give none, which makes the"
            " shares proportional to the numbers of rows"
        )


def concatenate(sets: Sequence[Rows]) -> Rows:
    """Concatenates the rows of all sets without a copy.

    >>> from trainer.data.rows import Row
    >>> [row.query for row in concatenate([Rows.of([Row("a", "b")]), Rows.of([Row("c", "d")])])]
    ['a', 'c']
    """
    if len(sets) == 1:
        return sets[0]
    report = ReadReport(
        source=", ".join(rows.report.source for rows in sets),
        rows_read=sum(rows.report.rows_read for rows in sets),
        rows_kept=sum(len(rows) for rows in sets),
    )
    return replace(
        sets[0],
        table=pa.concat_tables([rows.table for rows in sets]),
        report=report,
        sha256=sum((rows.sha256 for rows in sets), ()) if all(rows.sha256 for rows in sets) else (),
    )


def build_mixture(
    sets: Sequence[Rows],
    training_rows: Rows,
    weights: Sequence[float | None],
    one_source_per_batch: bool,
) -> Mixture:
    """Returns the mixture of `sets`. `training_rows` are the rows of their concatenation that are
    not held out, in the same order.

    Raises BadData if no row of a set is left, and BadRecipe if only some sets have a weight.
    """
    check_weights(weights)
    ends = np.cumsum([0, *map(len, sets)])
    numbers = training_rows.row_numbers
    if numbers is None:
        numbers = np.arange(len(training_rows))
    sizes = tuple(np.diff(np.searchsorted(numbers, ends)).tolist())
    names = tuple(rows.report.source for rows in sets)
    for name, size in zip(names, sizes, strict=True):
        if size == 0:
            raise BadData(
                f"{name}: all its rows are held out for validation, or are near-identical to rows"
                " that are; give it more rows, or a separate validation set: data.validation=FILE."
            )
    explicit_weights = [weight for weight in weights if weight is not None]
    return Mixture(names, sizes, whole_weights(explicit_weights or sizes), one_source_per_batch)
