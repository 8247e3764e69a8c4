"""Whole weights out of a model that is shared among ranks, and back."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


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


@torch.no_grad()
def load_weights(module: nn.Module, weights: Mapping[str, Shaped[Tensor, "..."]]) -> None:
    """Puts whole tensors, the same on every rank, where `full_weights` found them. Raises KeyError
    for a name the module does not have.

    For use after training: under ZeRO the optimizer keeps its own copy of the weights, from which a
    further step would start.
    """
    _reshard(module)
    places = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
    for name, value in weights.items():
        place = places[name]
        if isinstance(place, DTensor):
            place.copy_(
                distribute_tensor(
                    value.to(place.device, place.dtype), place.device_mesh, place.placements
                )
            )
        else:
            with _gathered(place, changed=True) as whole:
                whole.copy_(value)


def _reshard(module: nn.Module) -> None:
    """FSDP2's last gathered weights are given back, so that what is seen is what the optimizer
    holds.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def _gathered(parameter: Tensor, changed: bool = False) -> Iterator[Shaped[Tensor, "..."]]:
    if isinstance(parameter, DTensor):
        yield parameter.full_tensor()
        return
    with zero_gathered([parameter], changed):
        yield parameter


def zero_gathered(parameters: Iterable[Tensor], changed: bool = False) -> Any:
    """A context in which those of `parameters` that ZeRO-3 has shared out are whole; `changed`:
    what is written to them stays.
    """
    shared = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not shared:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(shared, modifier_rank=0 if changed else None)
