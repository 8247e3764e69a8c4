"""The norm of a gradient that is sharded among ranks, and clipping by it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def clip_to_global_norm(optimizer: Any, max_norm: float | None) -> Float[Tensor, ""]:
    """Scales the gradients down so that their norm is at most `max_norm`; returns the norm before.

    The norm is over all parameters and ranks, the same on every rank. All ranks must call this
    between the backward pass and the update. In ZeRO, DeepSpeed clips the gradients by the
    `gradient_clip_val` of the Lightning trainer. The norm is computed here all the same, so that a
    run can stop before the update.
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
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _zero_norm(optimizer: Any) -> Float[Tensor, ""]:
    """Returns the norm that DeepSpeed computes in its step. Its -1, which means infinity, becomes
    NaN.
    """
    if hasattr(optimizer, "scaled_global_norm"):
        norm = optimizer.scaled_global_norm()
    else:
        norms = torch.stack(
            [
                torch.as_tensor(group_norm, dtype=torch.float32).cpu()
                for group_norm in optimizer._get_norm_groups()
            ]
        )
        norm = torch.where((norms < 0).any(), torch.nan, norms.norm())
    norm = torch.as_tensor(norm, dtype=torch.float32).reshape(())
    return torch.where(norm < 0, torch.nan, norm) / float(optimizer.loss_scale)
