"""Micro-batches and recomputation: a batch of any size at the memory of a few of its texts."""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.batch import Texts
from trainer.collectives import MAX, MIN, all_reduce_integers, rank

Encode = Callable[[Texts], Float[Tensor, "text ..."]]
"""Any function from texts to one embedding each: a vector, or one vector a token, rows of zeros
where there is none.
"""


def micro_batches(lengths: Int[Tensor, " text"], tokens: int) -> list[Int[Tensor, " row"]]:
    """Rows in micro-batches of at most `tokens` padded tokens, longest text first; a longer text
    has a micro-batch to itself.

    Sorting by length first leaves next to no padding; the longest come first, so that a lack of
    memory shows at once.

    >>> [rows.tolist() for rows in micro_batches(torch.tensor([2, 9, 3, 3]), tokens=8)]
    [[1], [2, 3], [0]]
    """
    order = lengths.argsort(descending=True, stable=True)
    cuts, start = [], 0
    ordered = lengths[order].tolist()
    for end, _ in enumerate(ordered):
        if (end + 1 - start) * ordered[start] > tokens and end > start:
            cuts.append(order[start:end])
            start = end
    return [*cuts, order[start:]]


@dataclass(frozen=True, slots=True)
class MicroBatching:
    """How a step's texts go through `encode`; `for_step` gives a step its way."""

    encode: Encode
    tokens: int | None
    """Padded tokens per micro-batch; None: one micro-batch."""
    kept_tokens: int | None = None
    """Padded tokens per step whose activations are kept; None: all."""
    seed: int = 0

    def for_step(self, step: int) -> Encode:
        """`encode` for one step, counted from 0."""
        return in_microbatches(self.encode, self.tokens, self.kept_tokens, self.seed, step)


def in_microbatches(
    encode: Encode, tokens: int | None, kept_tokens: int | None = None, seed: int = 0, step: int = 0
) -> Encode:
    """`encode` for one step, done in micro-batches of at most `tokens` padded tokens, each distinct
    text once.

    The embeddings and the gradient are those of the whole batch at once (law 1). Micro-batches keep
    their activations until `kept_tokens` padded tokens are kept (None: all do). The others run
    again in the backward pass, which is GradCache (Gao et al. 2021) inside one ordinary backward.
    The random state of a micro-batch is a function of seed, step, rank and its number, so both
    passes draw the same dropout, on every device, and nothing is saved for it.

    Ranks run the same number of micro-batches and recompute the same ones: sharded weights are
    gathered anew for each, by all ranks together.
    """
    room, numbers = kept_tokens, count()

    def encode_part(texts: Texts, number: int) -> Float[Tensor, "text ..."]:
        torch.manual_seed(random_seed(seed, step, rank(), number))
        return encode(texts)

    def encode_again(texts: Texts, number: int) -> Float[Tensor, "text ..."]:
        release_freed_memory()
        return encode_part(texts, number)

    def encode_in_microbatches(texts: Texts) -> Float[Tensor, "text ..."]:
        nonlocal room
        first, place = _distinct_texts(texts)
        lengths = texts.lengths[first]
        cuts = micro_batches(lengths, tokens) if tokens else [torch.arange(len(first))]
        cuts = _same_count_on_all_ranks(cuts)
        is_kept, room = _keep_while_there_is_room(cuts, lengths, room)
        parts = [(texts.select(first[cut]), next(numbers)) for cut in cuts]
        embeddings = [
            encode_part(*part)
            if kept
            else checkpoint(encode_again, *part, use_reentrant=False, preserve_rng_state=False)
            for part, kept in zip(parts, is_kept, strict=True)
        ]
        row_of_text = torch.cat(cuts)[: len(first)].argsort()[place]
        return _join(embeddings)[row_of_text.to(embeddings[0].device)]

    return encode_in_microbatches


def _distinct_texts(texts: Texts) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " text"]]:
    """The first row of each distinct text, and for every text its place among these."""
    _, place = texts.identities.unique(return_inverse=True)
    first = torch.full((int(place.max()) + 1,), len(texts))
    return first.scatter_reduce_(0, place, torch.arange(len(texts)), "amin"), place


def _keep_while_there_is_room(
    cuts: list[Int[Tensor, " _"]], lengths: Int[Tensor, " distinct"], room: int | None
) -> tuple[list[bool], int | None]:
    """Which micro-batches keep their activations, the same on all ranks; and the tokens of room
    that are left to this rank (None: no limit).
    """
    is_kept = []
    for cut in cuts:
        cost = len(cut) * int(lengths[cut].max())
        is_kept.append(room is None or cost <= room)
        if room is not None and is_kept[-1]:
            room -= cost
    return [bool(kept) for kept in all_reduce_integers(list(map(int, is_kept)), MIN)], room


def random_seed(*path: int) -> int:
    """A seed of 64 bits that depends on every number of `path` and on nothing else.

    >>> random_seed(13, 0, 0, 1) == random_seed(13, 0, 0, 1)
    True
    >>> random_seed(13, 0, 0, 1) == random_seed(13, 0, 1, 0)
    False
    """
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0])


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def release_freed_memory() -> None:
    """Returns what the C library holds of freed memory to the system, where tensors lie there.

    Micro-batches differ in shape, and each leaves gaps that the next does not fit into: at batch 1
    024, half of a step's peak is such gaps. Once a micro-batch, this costs no time that could be
    measured.
    """
    if _trim is not None and not torch.cuda.is_initialized():
        _trim(0)


def _same_count_on_all_ranks(cuts: list[Int[Tensor, " _"]]) -> list[Int[Tensor, " _"]]:
    """As many micro-batches as the rank with the most: the largest are halved; where all hold one
    text, the first is encoded again for nothing.
    """
    (most,) = all_reduce_integers([len(cuts)], MAX)
    while len(cuts) < most:
        largest = max(range(len(cuts)), key=lambda number: len(cuts[number]))
        if len(cuts[largest]) == 1:
            return cuts + [cuts[0]] * (most - len(cuts))
        cuts[largest : largest + 1] = cuts[largest].tensor_split(2)
    return cuts


def _join(parts: list[Float[Tensor, "_ ..."]]) -> Float[Tensor, "text ..."]:
    """The embeddings of all micro-batches; token vectors are filled up with rows of zeros to the
    longest text.
    """
    if parts[0].ndim > 2:
        longest = max(part.shape[1] for part in parts)
        parts = [functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(parts)
