"""Gathers the full weights of a model that is sharded among ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


@torch.no_grad()
def full_weights(module: nn.Module, trained_only: bool = True) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns full tensors by name, copied to the CPU, with the names of the module before
    sharding.

    All ranks must call it, and get the same. With `trained_only=False`, frozen parameters and the
    buffers of the state dictionary are included.
    """
    reshard(module)
    weights: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=trained_only):
        if parameter.requires_grad or not trained_only:
            with _gather(parameter) as full_tensor:
                weights[name] = full_tensor.detach().to("cpu", copy=True)
    if not trained_only:
        state = module.state_dict(keep_vars=True)
        weights |= {
            name: buffer.detach().to("cpu", copy=True)
            for name, buffer in module.named_buffers()
            if name in state
        }
    return weights


@torch.no_grad()
def own_weights(module: nn.Module) -> None:
    """Copies weights that are read from a file as they are needed into memory of their own.

    Otherwise a file that is changed during the training would change the frozen weights.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def reshard(module: nn.Module) -> None:
    """Frees the weights that FSDP2 gathered last, so that reads see the optimizer's weights."""
    for submodule in module.modules():
        if isinstance(submodule, FSDPModule):
            submodule.reshard()


@contextmanager
def _gather(parameter: Tensor) -> Iterator[Shaped[Tensor, "..."]]:
    if isinstance(parameter, DTensor):
        yield parameter.full_tensor()
        return
    if not hasattr(parameter, "ds_id"):  # ZeRO-3 has not partitioned it
        yield parameter
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield parameter
