"""Where the texts of a packed micro-batch are, and in which groups attention runs."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

GROUP_OVERHEAD, PADDING_OVERHEAD = 8192, 80
"""The time of a further group, and of a row of a group with padding, which is copied, in products
of a query and a key that take as long.
"""


@dataclass(frozen=True)
class Group:
    """Consecutive texts of similar length, and their places in a padded matrix."""

    texts: int
    longest: int
    rows: int
    """The number of their tokens."""
    sources: Int[Tensor, " place"] | None
    """The row that each place of the padded matrix shows; None: there is no padding."""
    places: Int[Tensor, " row"] | None
    """The place of each row in the padded matrix; None: the same."""
    is_key: Bool[Tensor, "text 1 1 key"] | None
    """The mask of the tokens that are attended to; None: all."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where each text of a packed micro-batch begins and ends. Longer texts come first."""

    lengths: Int[np.ndarray, " text"]
    key_counts: Int[np.ndarray, " text"]
    """The number of tokens of each text, from its first, that are attended to."""
    keys: Int[Tensor, " text"]
    """The same on the device."""
    offsets: Int[Tensor, " text_plus_one"]
    """The first row of each text, on the device."""
    positions: Int[Tensor, " row"]
    """The place of each token in its text, on the device."""
    max_length: int
    """The length of the longest text, rounded up to one of few values."""
    fill: int
    """The number of rows without a token, which fill up to one of few sizes."""

    @property
    def longest(self) -> int:
        """The number of tokens of the longest text."""
        return int(self.lengths[0])

    @cached_property
    def kernel_offsets(self) -> Int[Tensor, " text_or_fill"]:
        """The offsets in int32. The rows that fill up are one more text."""
        ends = [self.offsets, self.offsets[-1:] + self.fill] if self.fill else [self.offsets]
        return torch.cat(ends).int()

    @cached_property
    def counts(self) -> Int[Tensor, " text"]:
        """The number of tokens of each text, on the device."""
        return self.offsets.diff()

    @cached_property
    def places(self) -> Int[Tensor, " row"]:
        """The place of each token in a matrix of one row per text, padded to the longest."""
        first = torch.arange(len(self.lengths), device=self.offsets.device) * self.longest
        total = len(self.positions)
        return first.repeat_interleave(self.counts, output_size=total) + self.positions

    @cached_property
    def has_unattended(self) -> bool:
        """Whether some tokens are not attended to."""
        return bool((self.key_counts < self.lengths).any())

    def pad(
        self, rows: Shaped[Tensor, "row width"], value: int = 0
    ) -> Shaped[Tensor, "text length width"]:
        """Returns one matrix per text, with rows of `value` as padding."""
        shape = (len(self.lengths), self.longest, rows.shape[1])
        padding = rows.new_full((shape[0] * shape[1], shape[2]), value)
        return padding.index_copy(0, self.places, rows).view(shape)

    def unpad(self, matrix: Shaped[Tensor, "text length ..."]) -> Shaped[Tensor, "row ..."]:
        """Returns the rows of all tokens."""
        return matrix.flatten(0, 1)[self.places]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups in which attention runs without a kernel for texts of any lengths.

        They are made on the device from `counts`, so that nothing is sent there.
        """
        return tuple(
            _group(
                self.lengths[part],
                self.counts[part],
                self.keys[part],
                int(self.key_counts[part].min()),
            )
            for part in group_texts(self.lengths)
        )


def group_texts(lengths: Int[np.ndarray, " text"]) -> list[slice]:
    """Divides texts, sorted from long to short, into the groups that take the least time.

    A group takes `texts * longest ** 2 + GROUP_OVERHEAD`, and `PADDING_OVERHEAD` more per row if
    its texts differ in length. The best division is found by dynamic programming over the
    different lengths.

    >>> group_texts(np.array([200] * 9 + [10, 10, 9]))
    [slice(0, 9, None), slice(9, 12, None)]
    """
    starts = np.flatnonzero(np.diff(lengths, prepend=-1))
    squares, ends = lengths[starts] ** 2, np.append(starts[1:], len(lengths))
    rows = np.append(0, lengths.cumsum())
    least_time, first = np.zeros(len(starts) + 1), []
    for number, end in enumerate(ends, 1):
        begin = starts[:number]
        copies = PADDING_OVERHEAD * (rows[end] - rows[begin])
        copies[-1] = 0
        times = least_time[:number] + (end - begin) * squares[:number] + GROUP_OVERHEAD + copies
        first.append(int(times.argmin()))
        least_time[number] = times[first[-1]]
    parts, number = [], len(starts)
    while number:
        parts.append(slice(int(starts[first[number - 1]]), int(ends[number - 1])))
        number = first[number - 1]
    return parts[::-1]


def _group(
    lengths: Int[np.ndarray, " text"],
    counts: Int[Tensor, " text"],
    key_counts: Int[Tensor, " text"],
    fewest_keys: int,
) -> Group:
    """Makes a group of texts; `lengths` on the CPU are the `counts` on the device."""
    texts, longest, rows = len(lengths), int(lengths[0]), int(lengths.sum())
    columns = torch.arange(longest, device=counts.device)
    sources = places = is_key = None
    if lengths[-1] < longest:
        starts = counts.cumsum(0) - counts
        sources = (starts[:, None] + torch.minimum(columns, counts[:, None] - 1)).flatten()
        first = torch.arange(texts, device=counts.device) * longest - starts
        places = first.repeat_interleave(counts, output_size=rows)
        places = places + torch.arange(rows, device=counts.device)
    if fewest_keys < longest:
        is_key = (columns < key_counts[:, None])[:, None, None]
    return Group(texts, longest, rows, sources, places, is_key)
