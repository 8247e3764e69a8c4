"""Pooling of token vectors into one vector per text.

The prompt is excluded if requested, not multiplied by zero.
"""

from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from trainer.batch import to_device
from trainer.models.contracts.dense import PoolingKind
from trainer.models.parts.packed import MicroBatch


def pool(
    kind: PoolingKind,
    hidden_states: Float[Tensor, "token width"],
    batch: MicroBatch,
    excluded_tokens: int = 0,
) -> Float[Tensor, "text width"]:
    """Returns one vector per text, in float32 or better, without the first `excluded_tokens`.

    mean: the sum over tokens / their number. cls: the first token. last_token: the last token.
    weighted_mean: token i has weight i, counted from 1 with the prompt (Muennighoff 2022, eq. 2). A
    text that has only excluded tokens is pooled over all of them.

    >>> from trainer.batch import Texts
    >>> from trainer.models.parts.packed import micro_batch
    >>> batch = micro_batch(Texts.of([[1, 2]], [1]), torch.device("cpu"))
    >>> hidden = torch.tensor([[2.0], [5.0]])
    >>> kinds = ("mean", "cls", "last_token", "weighted_mean")
    >>> [pool(kind, hidden, batch).item() for kind in kinds]
    [3.5, 2.0, 5.0, 4.0]
    """
    wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
    first = _first_tokens(batch, excluded_tokens)
    match kind:
        case "mean":
            tokens, offsets = _used_tokens(batch, first)
            return functional.embedding_bag(
                tokens, wide, offsets, mode="mean", include_last_offset=True
            )
        case "cls":
            return wide[
                batch.packing.offsets[:-1] if first is None else to_device(first, batch.device)
            ]
        case "last_token":
            return wide[batch.packing.offsets[1:] - 1]
        case "weighted_mean":
            return _weighted_mean(wide, batch, first)
        case _:
            assert_never(kind)


def _weighted_mean(
    hidden_states: Float[Tensor, "token width"],
    batch: MicroBatch,
    first: Int[Tensor, " text"] | None,
) -> Float[Tensor, "text width"]:
    tokens, offsets = _used_tokens(batch, first)
    weights = (batch.packing.positions[tokens] + 1).to(hidden_states.dtype)
    total, weight = (
        functional.embedding_bag(
            tokens,
            rows,
            offsets,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )
        for rows in (hidden_states, torch.ones_like(hidden_states[:, :1]))
    )
    return total / weight


def _first_tokens(batch: MicroBatch, excluded_tokens: int) -> Int[Tensor, " text"] | None:
    """Returns the first token of each text that pooling uses, on the CPU; None: all are used."""
    if excluded_tokens == 0:
        return None
    lengths, starts = batch.texts.lengths, batch.texts.offsets[:-1]
    return starts + torch.where(lengths > excluded_tokens, excluded_tokens, 0)


def _used_tokens(
    batch: MicroBatch, first: Int[Tensor, " text"] | None
) -> tuple[Int[Tensor, " used"], Int[Tensor, " text_plus_one"]]:
    """Returns the tokens that pooling uses, and where those of each text begin among them."""
    if first is None:
        return torch.arange(len(batch.tokens), device=batch.device), batch.packing.offsets
    counts = batch.texts.offsets[1:] - first
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    tokens = torch.arange(int(offsets[-1])) + (first - offsets[:-1]).repeat_interleave(counts)
    return to_device(tokens, batch.device), to_device(offsets, batch.device)
