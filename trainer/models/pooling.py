"""From the vectors of a text's tokens to one vector. Padding and, where asked, the prompt are excluded, not multiplied by zero."""

from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.models.contract import PoolingKind


def pool(
    kind: PoolingKind, hidden: Float[Tensor, "text length width"], real: Bool[Tensor, "text length"], excluded: int = 0
) -> Float[Tensor, "text width"]:
    """One float32 vector a text, from its real tokens after the first `excluded`; padding is on the right.

    mean: the sum over tokens / their number. cls: the first token. last_token: the last one. weighted_mean: token i (from 1, the prompt
    counted) weighs i (Muennighoff 2022, eq. 2). A text with nothing left after the excluded tokens is pooled over all of them.

    >>> hidden, real = torch.tensor([[[2.0], [5.0], [9.0]]]), torch.tensor([[True, True, False]])
    >>> [pool(kind, hidden, real).item() for kind in ("mean", "cls", "last_token", "weighted_mean")]
    [3.5, 2.0, 5.0, 4.0]
    """
    used = _without_first(real, excluded) if excluded else real
    match kind:
        case "mean":
            return _mean(hidden, used)
        case "cls":
            return _at(hidden, used.int().argmax(1))
        case "last_token":
            return _at(hidden, real.sum(1) - 1)
        case "weighted_mean":
            weights = torch.arange(1, real.shape[1] + 1, device=real.device) * used
            weights = weights / weights.sum(1, keepdim=True)
            return torch.einsum("tl,tlw->tw", weights, hidden.float().masked_fill(~used[..., None], 0.0))
        case _:
            assert_never(kind)


def _mean(hidden: Float[Tensor, "text length width"], used: Bool[Tensor, "text length"]) -> Float[Tensor, "text width"]:
    return hidden.masked_fill(~used[..., None], 0.0).sum(1, dtype=torch.float32) / used.sum(1, keepdim=True)


def _at(hidden: Float[Tensor, "text length width"], position: "Tensor") -> Float[Tensor, "text width"]:
    return hidden[torch.arange(len(hidden), device=hidden.device), position].float()


def _without_first(real: Bool[Tensor, "text length"], excluded: int) -> Bool[Tensor, "text length"]:
    used = real.clone()
    used[:, :excluded] = False
    return torch.where(used.any(1, keepdim=True), used, real)
