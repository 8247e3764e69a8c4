"""Whole weights out of a model that is shared among ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


@torch.no_grad()
def full_weights(module: nn.Module, trained_only: bool = True) -> dict[str, Shaped[Tensor, "..."]]:
    """Name to whole tensor, copied to the CPU, under the names of the module as it was before it
    was shared out; the same on every rank.

    All ranks must call it. With `trained_only=False` also frozen parameters and the buffers of the
    state dictionary.
    """
    _reshard(module)
    weights: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=trained_only):
        if parameter.requires_grad or not trained_only:
            with _gathered(parameter) as whole:
                weights[name] = whole.detach().to("cpu", copy=True)
    if not trained_only:
        saved = module.state_dict(keep_vars=True)
        weights |= {
            name: buffer.detach().to("cpu", copy=True)
            for name, buffer in module.named_buffers()
            if name in saved
        }
    return weights


def _reshard(module: nn.Module) -> None:
    """FSDP2's last gathered weights are given back, so that what is seen is what the optimizer
    holds.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def _gathered(parameter: Tensor) -> Iterator[Shaped[Tensor, "..."]]:
    if isinstance(parameter, DTensor):
        yield parameter.full_tensor()
        return
    if not hasattr(parameter, "ds_id"):  # ZeRO-3 has not shared it out
        yield parameter
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield parameter
