"""Micro-batches and recomputation: a batch of any size needs only the memory of a few texts."""

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
"""Any function from texts to one embedding per text.

An embedding is one vector, or one vector per token with rows of zeros as padding.
"""


def micro_batches(lengths: Int[Tensor, " text"], tokens: int) -> list[Int[Tensor, " row"]]:
    """Divides rows into micro-batches of at most `tokens` padded tokens.

    A text that is longer than that gets its own micro-batch. Texts are sorted by length, so that
    there is little padding. The longest come first, so that a lack of memory shows at once.

    >>> [rows.tolist() for rows in micro_batches(torch.tensor([2, 9, 3, 3]), tokens=8)]
    [[1], [2, 3], [0]]
    """
    order = lengths.argsort(descending=True, stable=True)
    cuts, start = [], 0
    sorted_lengths = lengths[order].tolist()
    for end, _ in enumerate(sorted_lengths):
        if (end + 1 - start) * sorted_lengths[start] > tokens and end > start:
            cuts.append(order[start:end])
            start = end
    return [*cuts, order[start:]]


@dataclass(frozen=True, slots=True)
class MicroBatching:
    """The settings by which the texts of a step go through `encode` in micro-batches."""

    encode: Encode
    tokens: int | None
    """Most padded tokens per micro-batch; None: one micro-batch."""
    kept_tokens: int | None = None
    """Most padded tokens per step whose activations are kept; None: all."""
    seed: int = 0

    def for_step(self, step: int) -> Encode:
        """Returns `encode` in micro-batches for one step, counted from 0."""
        return in_microbatches(self.encode, self.tokens, self.kept_tokens, self.seed, step)


def in_microbatches(
    encode: Encode, tokens: int | None, kept_tokens: int | None = None, seed: int = 0, step: int = 0
) -> Encode:
    """Returns `encode` for one step, in micro-batches of at most `tokens` padded tokens.

    A text that occurs twice is encoded once. The embeddings and the gradient are those of the whole
    batch at once (law 1). Micro-batches keep their activations until `kept_tokens` padded tokens
    are kept (None: all do). The others run again in the backward pass, which is GradCache (Gao et
    al. 2021) inside one ordinary backward pass. The random state of a micro-batch depends only on
    seed, step, rank and its number. So both passes draw the same dropout on every device, and no
    random state is saved.

    All ranks run the same number of micro-batches and recompute the same ones, because sharded
    weights are gathered for each micro-batch by all ranks together.
    """
    room, numbers = kept_tokens, count()

    def encode_part(texts: Texts, number: int) -> Float[Tensor, "text ..."]:
        torch.manual_seed(random_seed(seed, step, rank(), number))
        return encode(texts)

    def recompute(texts: Texts, number: int) -> Float[Tensor, "text ..."]:
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
            if keeps_activations
            else checkpoint(recompute, *part, use_reentrant=False, preserve_rng_state=False)
            for part, keeps_activations in zip(parts, is_kept, strict=True)
        ]
        row_of_text = torch.cat(cuts)[: len(first)].argsort()[place]
        return _join(embeddings)[row_of_text.to(embeddings[0].device)]

    return encode_in_microbatches


def _distinct_texts(texts: Texts) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " text"]]:
    """Returns the first row of each distinct text, and the place of every text among them."""
    _, place = texts.identities.unique(return_inverse=True)
    first = torch.full((int(place.max()) + 1,), len(texts))
    return first.scatter_reduce_(0, place, torch.arange(len(texts)), "amin"), place


def _keep_while_there_is_room(
    cuts: list[Int[Tensor, " _"]], lengths: Int[Tensor, " distinct"], room: int | None
) -> tuple[list[bool], int | None]:
    """Returns which micro-batches keep their activations, and the tokens that this rank can still
    keep (None: no limit). The choice is the same on all ranks.
    """
    is_kept = []
    for cut in cuts:
        cost = len(cut) * int(lengths[cut].max())
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


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def release_freed_memory() -> None:
    """Returns freed memory of the C library to the system, if tensors are in main memory.

    Micro-batches differ in shape, and each leaves gaps that the next does not fit into. At a batch
    size of 1 024, half of a step's peak memory is such gaps. One call per micro-batch costs no
    measurable time.
    """
    if _trim is not None and not torch.cuda.is_initialized():
        _trim(0)


def _same_count_on_all_ranks(cuts: list[Int[Tensor, " _"]]) -> list[Int[Tensor, " _"]]:
    """Halves the largest micro-batches until there are as many as on the rank with the most.

    If every micro-batch has a single text, the first one is repeated and its result is not used.
    """
    (count_on_all_ranks,) = all_reduce_integers([len(cuts)], MAX)
    while len(cuts) < count_on_all_ranks:
        largest = max(range(len(cuts)), key=lambda number: len(cuts[number]))
        if len(cuts[largest]) == 1:
            return cuts + [cuts[0]] * (count_on_all_ranks - len(cuts))
        cuts[largest : largest + 1] = cuts[largest].tensor_split(2)
    return cuts


def _join(parts: list[Float[Tensor, "_ ..."]]) -> Float[Tensor, "text ..."]:
    """Concatenates the embeddings of all micro-batches. Token vectors are padded with rows of zeros
    to the longest text.
    """
    if parts[0].ndim > 2:
        longest = max(part.shape[1] for part in parts)
        parts = [functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(parts)
