"""The norm of a gradient that is sharded among ranks, and clipping by it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class GradientNorms(NamedTuple):
    """Norms over all ranks, before clipping, the same on every rank."""

    total: Float[Tensor, ""]
    groups: dict[str, Float[Tensor, ""]]
    """The norm of each group of weights; empty in ZeRO, which stores the gradient as one piece."""


@torch.no_grad()
def clip_to_global_norm(
    optimizer: Any,
    max_norm: float | None,
    groups: Mapping[str, Sequence[nn.Parameter]] | None = None,
) -> GradientNorms:
    """Scales the gradients down so that their norm is at most `max_norm`; returns the norms before.

    All ranks must call this between the backward pass and the update. `groups` have each weight of
    the optimizer once (None: one group of all). The total is the norm of the norms of the groups,
    so groups cost nothing. In ZeRO, DeepSpeed clips the gradients by the `gradient_clip_val` of the
    Lightning trainer. The norm is computed here all the same, so that a run can stop before the
    update.
    """
    if hasattr(optimizer, "unscale_and_clip_grads"):
        return GradientNorms(_zero_norm(optimizer), {})
    if groups is None:
        groups = {"all": [weight for group in optimizer.param_groups for weight in group["params"]]}
    norms = {
        name: _full_norm(nn.utils.get_total_norm(gradients))
        for name, weights in groups.items()
        if (gradients := [weight.grad for weight in weights if weight.grad is not None])
    }
    total = torch.stack([*norms.values()]).norm()
    if max_norm is not None:
        with_gradient = [
            weight for weights in groups.values() for weight in weights if weight.grad is not None
        ]
        nn.utils.clip_grads_with_norm_(with_gradient, max_norm, total)
    return GradientNorms(total, norms)


def _full_norm(norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
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
