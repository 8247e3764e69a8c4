"""Micro-batches and recomputation: a batch of any size at the memory of a few of its texts."""

import ctypes
import sys
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.batch import Texts
from trainer.collectives import MAX, MIN, agreed

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


def in_chunks(encode: Encode, tokens: int | None, kept_tokens: int | None = None) -> Encode:
    """`encode` for one step, done in micro-batches of at most `tokens` padded tokens, each distinct
    text once.

    The embeddings and the gradient are those of the whole batch at once (law 1). Micro-batches keep
    their activations until `kept_tokens` padded tokens are kept (None: all do); the rest run again
    in the backward pass with their random state replayed, which is GradCache (Gao et al. 2021)
    inside one ordinary backward.

    Ranks run the same number of micro-batches and recompute the same ones: sharded weights are
    gathered anew for each, by all ranks together.
    """
    left = kept_tokens

    def encode_afresh(texts: Texts) -> Float[Tensor, "text ..."]:
        give_back()
        return encode(texts)

    def encode_in_chunks(texts: Texts) -> Float[Tensor, "text ..."]:
        nonlocal left
        _, place = texts.identities.unique(return_inverse=True)
        first = torch.full((int(place.max()) + 1,), len(texts)).scatter_reduce_(
            0, place, torch.arange(len(texts)), "amin"
        )
        lengths = texts.lengths[first]
        rows = micro_batches(lengths, tokens) if tokens else [torch.arange(len(first))]
        rows = _in_step(rows)
        keep = []
        for chunk in rows:
            cost = len(chunk) * int(lengths[chunk].max())
            keep.append(left is None or cost <= left)
            if left is not None and keep[-1]:
                left -= cost
        keep = [bool(kept) for kept in agreed(list(map(int, keep)), MIN)]
        parts = [texts.select(first[chunk]) for chunk in rows]
        encoded = [
            encode(part) if kept else checkpoint(encode_afresh, part, use_reentrant=False)
            for part, kept in zip(parts, keep, strict=True)
        ]
        back = torch.cat(rows)[: len(first)].argsort()[place]
        return _joined(encoded)[back.to(encoded[0].device)]

    return encode_in_chunks


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def give_back() -> None:
    """Returns what the C library holds of freed memory to the system, where tensors lie there.

    Micro-batches differ in shape, and each leaves gaps that the next does not fit into: at batch 1
    024, half of a step's peak is such gaps. Once a micro-batch, this costs no time that could be
    measured.
    """
    if _trim is not None and not torch.cuda.is_initialized():
        _trim(0)


def _in_step(rows: list[Int[Tensor, " _"]]) -> list[Int[Tensor, " _"]]:
    """As many micro-batches as the rank with the most: the largest are halved; where all hold one
    text, the first is encoded again for nothing.
    """
    (wanted,) = agreed([len(rows)], MAX)
    while len(rows) < wanted:
        largest = max(range(len(rows)), key=lambda number: len(rows[number]))
        if len(rows[largest]) == 1:
            return rows + [rows[0]] * (wanted - len(rows))
        rows[largest : largest + 1] = rows[largest].tensor_split(2)
    return rows


def _joined(parts: list[Float[Tensor, "_ ..."]]) -> Float[Tensor, "text ..."]:
    """The embeddings of all micro-batches; token vectors are filled up with rows of zeros to the
    longest text.
    """
    if parts[0].ndim > 2:
        longest = max(part.shape[1] for part in parts)
        parts = [functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(parts)
