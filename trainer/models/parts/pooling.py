"""From the vectors of a text's tokens to one vector. Padding and, where asked, the prompt are
excluded, not multiplied by zero.
"""

from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trainer.models.contracts.dense import PoolingKind


def pool(
    kind: PoolingKind,
    hidden: Float[Tensor, "text length width"],
    real: Bool[Tensor, "text length"],
    excluded: int = 0,
) -> Float[Tensor, "text width"]:
    """One vector a text, in float32 at least, from its real tokens after the first `excluded`;
    padding is on the right.

    mean: the sum over tokens / their number. cls: the first token. last_token: the last one.
    weighted_mean: token i (from 1, the prompt counted) weighs i (Muennighoff 2022, eq. 2). A text
    with nothing left after the excluded tokens is pooled over all of them.

    >>> hidden, real = torch.tensor([[[2.0], [5.0], [9.0]]]), torch.tensor([[True, True, False]])
    >>> [pool(kind, hidden, real).item() for kind in ("mean", "cls", "last_token", "weighted_mean")]
    [3.5, 2.0, 5.0, 4.0]
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    used = _without_first(real, excluded) if excluded else real
    match kind:
        case "mean":
            total = hidden.masked_fill(~used[..., None], 0.0).sum(1, dtype=wide)
            return total / used.sum(1, keepdim=True)
        case "cls":
            return _at(hidden, used.int().argmax(1)).to(wide)
        case "last_token":
            return _at(hidden, real.sum(1) - 1).to(wide)
        case "weighted_mean":
            weights = torch.arange(1, real.shape[1] + 1, device=real.device, dtype=wide) * used
            total = (hidden.masked_fill(~used[..., None], 0.0) * weights[..., None]).sum(1)
            return total / weights.sum(1, keepdim=True)
        case _:
            assert_never(kind)


def _at(
    hidden: Float[Tensor, "text length width"], position: Int[Tensor, " text"]
) -> Float[Tensor, "text width"]:
    return hidden[torch.arange(len(hidden), device=hidden.device), position]


def _without_first(real: Bool[Tensor, "text length"], excluded: int) -> Bool[Tensor, "text length"]:
    used = real.clone()
    used[:, :excluded] = False
    return torch.where(used.any(1, keepdim=True), used, real)
