"""Micro-batches and recomputation: a batch of any size needs only the memory of a few texts."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.batch import Batch, Division, Texts, to_device
from trainer.collectives import MAX, MIN, all_reduce_integers, rank
from trainer.kernels.freed_memory import release_freed_memory

Encode = Callable[[Texts], Float[Tensor, "text ..."]]
"""Any function from texts to one embedding per text.

An embedding is one vector, or one vector per token with rows of zeros as padding.
"""
Pack = Callable[[Texts], Texts]
"""A function that returns the texts of a micro-batch with their `numbers`."""


CUT_OVERHEAD = 200
"""The time of a further micro-batch of padded texts, in tokens that take as long."""


def micro_batches(
    lengths: Int[Tensor, " text"], tokens: int, is_padded: bool = False
) -> list[Int[Tensor, " row"]]:
    """Divides rows into micro-batches of at most `tokens` tokens, counted with padding if there is.

    A text that is longer than that gets its own micro-batch. Texts are sorted by length, the
    longest first, so that a lack of memory shows at once. Without padding, micro-batches have
    similar numbers of tokens. With padding, they are those that take the least time.

    >>> [rows.tolist() for rows in micro_batches(torch.tensor([2, 9, 3, 3]), tokens=8)]
    [[1], [2, 3, 0]]
    >>> [rows.tolist() for rows in micro_batches(torch.tensor([2, 9, 3, 3]), 8, is_padded=True)]
    [[1], [2, 3], [0]]
    """
    order = lengths.argsort(descending=True, stable=True)
    sorted_lengths = lengths[order].numpy()
    ends = (_padded_ends if is_padded else _even_ends)(sorted_lengths, tokens)
    return list(order.tensor_split(ends[:-1]))


def _even_ends(lengths: Int[np.ndarray, " text"], tokens: int) -> list[int]:
    """Returns where micro-batches without padding end: as few as possible, and of similar size."""
    sums = lengths.cumsum()
    tokens = min(tokens, int(sums[-1]))
    ends = _full_ends(sums, tokens)
    too_small = int(sums[-1]) // len(ends) - 1
    while tokens - too_small > 1 + tokens // 64:  # the smallest limit that needs no more of them
        limit = (too_small + tokens) // 2
        fuller_ends = _full_ends(sums, limit)
        if len(fuller_ends) > len(ends):
            too_small = limit
        else:
            tokens, ends = limit, fuller_ends
    return ends


def _full_ends(sums: Int[np.ndarray, " text"], tokens: int) -> list[int]:
    """Returns where micro-batches end if each takes as many texts as `tokens` allow."""
    ends: list[int] = []
    while not ends or ends[-1] < len(sums):
        start = ends[-1] if ends else 0
        limit = tokens + (sums[start - 1] if start else 0)
        ends.append(max(start + 1, int(sums.searchsorted(limit, side="right"))))
    return ends


def _padded_ends(lengths: Int[np.ndarray, " text"], tokens: int) -> list[int]:
    """Returns where micro-batches with padding end, so that padding and `CUT_OVERHEAD` together are
    least, by dynamic programming.
    """
    least_time = np.zeros(len(lengths) + 1)
    starts: list[int] = []
    first = 0
    for end in range(1, len(lengths) + 1):
        while first < end - 1 and (end - first) * lengths[first] > tokens:
            first += 1
        counts = (end - np.arange(first, end)) * lengths[first:end]
        times = least_time[first:end] + counts + CUT_OVERHEAD
        starts.append(first + int(times.argmin()))
        least_time[end] = times.min()
    ends, end = [], len(lengths)
    while end:
        ends.append(end)
        end = starts[end - 1]
    return ends[::-1]


@dataclass(frozen=True, slots=True)
class MicroBatching:
    """The settings by which the texts of a step go through `encode` in micro-batches."""

    encode: Encode
    tokens: int | None
    """Most tokens per micro-batch; None: one micro-batch."""
    kept_tokens: int | None = None
    """Most tokens per step whose activations are kept; None: all."""
    seed: int = 0
    is_padded: bool = False
    """Tokens are counted with padding, because the encoder takes no packed texts."""
    pack: Pack | None = None
    """Makes the numbers of a micro-batch ahead of the step; None: `encode` makes them."""

    def prepare(self, batch: Batch) -> Batch:
        """Returns the batch with its texts divided into micro-batches, so that the step need not do
        it. Any thread may call it.
        """
        divisions = (
            divide_texts(texts, self.tokens, self.is_padded, self.pack)
            for texts in (batch.queries, batch.documents)
        )
        return replace(batch, divisions=tuple(divisions))

    def for_step(self, step: int, divisions: Sequence[Division] = ()) -> Encode:
        """Returns `encode` in micro-batches for one step, counted from 0. Texts without one of the
        `divisions` are divided when they are encoded.
        """
        return in_microbatches(
            self.encode,
            self.tokens,
            self.kept_tokens,
            self.seed,
            step,
            self.is_padded,
            divisions,
        )


def divide_texts(
    texts: Texts, tokens: int | None, is_padded: bool = False, pack: Pack | None = None
) -> Division:
    """Returns each distinct text once, in micro-batches of at most `tokens` tokens (None: one).

    `pack` makes the numbers of each micro-batch; None: it has none.
    """
    first, place = _distinct_texts(texts)
    cuts = micro_batches(texts.lengths[first], tokens or sys.maxsize, is_padded)
    parts = [texts.select(first[cut]) for cut in cuts]
    packed_parts = parts if pack is None else map(pack, parts)
    return Division(texts, tuple(packed_parts), torch.cat(cuts).argsort()[place])


_recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def in_microbatches(
    encode: Encode,
    tokens: int | None,
    kept_tokens: int | None = None,
    seed: int = 0,
    step: int = 0,
    is_padded: bool = False,
    divisions: Sequence[Division] = (),
) -> Encode:
    """Returns `encode` for one step, in micro-batches of at most `tokens` tokens.

    A text that occurs twice is encoded once. The embeddings and the gradient are those of the whole
    batch at once (law 1). Micro-batches keep their activations until `kept_tokens` tokens are kept
    (None: all do). The others run again in the backward pass, which is GradCache (Gao et al. 2021)
    inside one ordinary backward pass. The random state of a micro-batch depends only on seed, step,
    rank and its number, so both passes draw the same dropout on every device.

    All ranks run and recompute equally many micro-batches, because they gather sharded weights
    together.
    """
    room, numbers = kept_tokens, count()

    def encode_part(texts: Texts, number: int, is_kept: bool = True) -> Float[Tensor, "text ..."]:
        if not is_kept:
            release_freed_memory()
        torch.manual_seed(random_seed(seed, step, rank(), number))
        return encode(texts)

    def encode_in_microbatches(texts: Texts) -> Float[Tensor, "text ..."]:
        nonlocal room
        ready = (division for division in divisions if division.texts is texts)
        division = next(ready, None) or divide_texts(texts, tokens, is_padded)
        parts = _same_count_on_all_ranks(division.micro_batches)
        costs = [token_count(part.lengths, is_padded) for part in parts]
        is_kept, room = _keep_while_there_is_room(costs, room)
        embeddings = [
            encode_part(part, next(numbers))
            if keeps_activations
            else _recompute(encode_part, part, next(numbers), False)
            for part, keeps_activations in zip(parts, is_kept, strict=True)
        ]
        return _join(embeddings)[to_device(division.rows, embeddings[0].device)]

    return encode_in_microbatches


def _distinct_texts(texts: Texts) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " text"]]:
    """Returns the first row of each distinct text, and the place of every text among them."""
    _, place = texts.identities.unique(return_inverse=True)
    first = torch.full((int(place.max()) + 1,), len(texts))
    return first.scatter_reduce_(0, place, torch.arange(len(texts)), "amin"), place


def token_count(lengths: Int[Tensor, " text"], is_padded: bool) -> int:
    """Returns the number of tokens of texts, with padding to the longest if `is_padded`."""
    return len(lengths) * int(lengths.max()) if is_padded else int(lengths.sum())


def _keep_while_there_is_room(costs: list[int], room: int | None) -> tuple[list[bool], int | None]:
    """Returns which micro-batches keep their activations, and the tokens that this rank can still
    keep (None: no limit). The choice is the same on all ranks.
    """
    is_kept = []
    for cost in costs:
        is_kept.append(room is None or cost <= room)
        if room is not None and is_kept[-1]:
            room -= cost
    is_kept_on_all_ranks = all_reduce_integers(list(map(int, is_kept)), MIN)
    return list(map(bool, is_kept_on_all_ranks)), room


def random_seed(*path: int) -> int:
    """Returns a 64-bit seed that depends only on the numbers of `path`.

    >>> random_seed(13, 0, 0, 1) == random_seed(13, 0, 0, 1)
    True
    >>> random_seed(13, 0, 0, 1) == random_seed(13, 0, 1, 0)
    False
    """
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0])


def _same_count_on_all_ranks(own_parts: Sequence[Texts]) -> list[Texts]:
    """Halves the largest micro-batches until there are as many as on the rank with the most.

    If every micro-batch has a single text, the first one is repeated and its result is not used.
    """
    parts = list(own_parts)
    (count_on_all_ranks,) = all_reduce_integers([len(parts)], MAX)
    while len(parts) < count_on_all_ranks:
        largest = max(range(len(parts)), key=lambda number: len(parts[number]))
        if len(parts[largest]) == 1:
            return parts + [parts[0]] * (count_on_all_ranks - len(parts))
        halves = torch.arange(len(parts[largest])).tensor_split(2)
        parts[largest : largest + 1] = map(parts[largest].select, halves)
    return parts


def _join(parts: list[Float[Tensor, "_ ..."]]) -> Float[Tensor, "text ..."]:
    """Concatenates the embeddings of all micro-batches. Token vectors are padded with rows of zeros
    to the longest text.
    """
    if parts[0].ndim > 2:
        longest = max(part.shape[1] for part in parts)
        parts = [functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(parts)
