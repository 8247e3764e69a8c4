"""Pooling of token vectors into one vector per text.

Padding and, if requested, the prompt are excluded, not multiplied by zero.
"""

from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trainer.models.contracts.dense import PoolingKind


def pool(
    kind: PoolingKind,
    hidden_states: Float[Tensor, "text length width"],
    real: Bool[Tensor, "text length"],
    excluded_tokens: int = 0,
) -> Float[Tensor, "text width"]:
    """Returns one vector per text, in float32 or better, without the first `excluded_tokens`.

    Padding must be on the right. mean: the sum over tokens / their number. cls: the first token.
    last_token: the last token. weighted_mean: token i has weight i, counted from 1 with the prompt
    (Muennighoff 2022, eq. 2). A text that has only excluded tokens is pooled over all of them.

    >>> hidden, real = torch.tensor([[[2.0], [5.0], [9.0]]]), torch.tensor([[True, True, False]])
    >>> [pool(kind, hidden, real).item() for kind in ("mean", "cls", "last_token", "weighted_mean")]
    [3.5, 2.0, 5.0, 4.0]
    """
    wide = torch.promote_types(hidden_states.dtype, torch.float32)
    used = _without_first(real, excluded_tokens) if excluded_tokens else real
    match kind:
        case "mean":
            total = hidden_states.masked_fill(~used[..., None], 0.0).sum(1, dtype=wide)
            return total / used.sum(1, keepdim=True)
        case "cls":
            return _at(hidden_states, used.int().argmax(1)).to(wide)
        case "last_token":
            return _at(hidden_states, real.sum(1) - 1).to(wide)
        case "weighted_mean":
            weights = torch.arange(1, real.shape[1] + 1, device=real.device, dtype=wide) * used
            total = (hidden_states.masked_fill(~used[..., None], 0.0) * weights[..., None]).sum(1)
            return total / weights.sum(1, keepdim=True)
        case _:
            assert_never(kind)


def _at(
    hidden_states: Float[Tensor, "text length width"], position: Int[Tensor, " text"]
) -> Float[Tensor, "text width"]:
    return hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), position]


def _without_first(
    real: Bool[Tensor, "text length"], excluded_tokens: int
) -> Bool[Tensor, "text length"]:
    used = real.clone()
    used[:, :excluded_tokens] = False
    return torch.where(used.any(1, keepdim=True), used, real)
