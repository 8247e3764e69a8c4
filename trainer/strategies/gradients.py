"""The norm of a gradient that is shared among ranks, and clipping to it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def clip_to_global_norm(optimizer: Any, largest: float | None) -> Float[Tensor, ""]:
    """The norm over all parameters and ranks, the same number on every rank; gradients are scaled
    down to `largest` where it is above.

    All ranks must call it, between backward pass and update. Under ZeRO the gradients are
    DeepSpeed's and it clips them itself, by the `gradient_clip_val` of the Lightning trainer; the
    norm is found here all the same, so that a run can stop before the update.
    """
    if hasattr(optimizer, "unscale_and_clip_grads"):
        return _zero_norm(optimizer)
    parameters = [
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if largest is not None:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _zero_norm(optimizer: Any) -> Float[Tensor, ""]:
    """As DeepSpeed finds it at the start of its step; its mark for infinity, -1, becomes NaN."""
    if hasattr(optimizer, "scaled_global_norm"):
        norm = optimizer.scaled_global_norm()
    else:
        norms = torch.stack(
            [
                torch.as_tensor(each, dtype=torch.float32).cpu()
                for each in optimizer._get_norm_groups()
            ]
        )
        norm = torch.where((norms < 0).any(), torch.nan, norms.norm())
    norm = torch.as_tensor(norm, dtype=torch.float32).reshape(())
    return torch.where(norm < 0, torch.nan, norm) / float(optimizer.loss_scale)
