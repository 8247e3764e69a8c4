"""The trained weights and AdamW's moments by parameter name, whatever the strategy.

Names are those of the module before sharding, so a state that one strategy gives another one takes.
FSDP2's tensors stay sharded. Those of DeepSpeed are gathered, one parameter after the other.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn

from trainer.collectives import all_rows, own_rows
from trainer.strategies.weights import reshard

WEIGHT, UPDATES, MOMENTS = "weight", "step", ("exp_avg", "exp_avg_sq")
"""Beginnings of the names of a state: `exp_avg/encoder.layer.0.weight`."""


@torch.no_grad()
def training_state(module: nn.Module, optimizer: Any) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the state of all trained parameters. All ranks must call it.

    A parameter that was never updated has only its weight.
    """
    reshard(module)  # the optimizer knows the shards, not the weights that were gathered last
    state: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(module):
        for kind in (WEIGHT, UPDATES, *MOMENTS):
            value = _zero_value if is_zero(optimizer) else _value
            if (tensor := value(optimizer, parameter, kind)) is not None:
                state[f"{kind}/{name}"] = tensor.detach()
    return state


@torch.no_grad()
def empty_moments(
    module: nn.Module, optimizer: Any, names: set[str]
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns tensors to read the moments into, for those parameters that have some in `names`.

    DeepSpeed also needs the weights, from which it has made a copy of its own.
    """
    kinds = (UPDATES, *MOMENTS) + ((WEIGHT,) if is_zero(optimizer) else ())
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(module):
        for kind in kinds:
            if f"{kind}/{name}" not in names:
                continue
            if kind == UPDATES:
                tensors[f"{kind}/{name}"] = torch.zeros(())
            elif is_zero(optimizer):
                tensors[f"{kind}/{name}"] = torch.zeros(
                    getattr(parameter, "ds_shape", parameter.shape)
                )
            else:
                tensors[f"{kind}/{name}"] = torch.zeros_like(parameter)
    return tensors


@torch.no_grad()
def restore_moments(
    module: nn.Module, optimizer: Any, tensors: dict[str, Shaped[Tensor, "..."]]
) -> None:
    """Gives an optimizer before its first step the moments in `tensors`. All ranks must call it."""
    if is_zero(optimizer):
        _restore_zero(module, optimizer, tensors)
        return
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in trained_parameters(module):
        if f"{UPDATES}/{name}" not in tensors:
            continue
        # The fused kernel wants its counter beside the weight.
        device = parameter.device if groups[id(parameter)].get("fused") else "cpu"
        optimizer.state[parameter] = {
            UPDATES: tensors[f"{UPDATES}/{name}"].to(device, torch.float32),
            **{kind: tensors[f"{kind}/{name}"] for kind in MOMENTS},
        }


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields the parameters that are trained, by name."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def is_zero(optimizer: Any) -> bool:
    """Returns whether the optimizer is one of DeepSpeed's."""
    return hasattr(optimizer, "unscale_and_clip_grads")


def _value(optimizer: Any, parameter: Any, kind: str) -> Tensor | None:
    return parameter if kind == WEIGHT else optimizer.state.get(parameter, {}).get(kind)


def _zero_value(optimizer: Any, parameter: Any, kind: str) -> Tensor | None:
    """Returns a full tensor in float32, the same on all ranks."""
    flat_weights = _flat_weights(optimizer, parameter)
    state = optimizer.optimizer.state.get(flat_weights, {})
    if kind == UPDATES:
        return state.get(UPDATES)
    if kind in MOMENTS and kind not in state:
        return None
    if hasattr(parameter, "ds_id"):
        return optimizer.get_full_hp_param(parameter, None if kind == WEIGHT else kind)
    # On the parameter's device, where ranks can add it; an offloaded state is elsewhere.
    full = torch.zeros(parameter.numel(), device=parameter.device)
    if (fragment := parameter._hp_mapping) is not None:
        part = flat_weights if kind == WEIGHT else state[kind]
        _lp_part(full, fragment).copy_(_hp_part(part, fragment))
    distributed.all_reduce(full)
    return full.view(parameter.shape)


def _restore_zero(module: nn.Module, optimizer: Any, tensors: dict[str, Tensor]) -> None:
    for name, parameter in trained_parameters(module):
        flat_weights = _flat_weights(optimizer, parameter)
        for kind in (WEIGHT, UPDATES, *MOMENTS):
            if f"{kind}/{name}" not in tensors:
                continue
            value, state = tensors[f"{kind}/{name}"], optimizer.optimizer.state[flat_weights]
            if kind == UPDATES:
                state[kind] = value.to(flat_weights.device)
                continue
            part = flat_weights
            if kind in MOMENTS:
                part = state.setdefault(kind, torch.zeros_like(flat_weights))
            value = value.to(part.device).flatten()
            if hasattr(parameter, "ds_id"):
                size = parameter.ds_tensor.numel()
                padded_value = value.new_zeros(all_rows(size))
                padded_value[: len(value)] = value
                own_part = padded_value[own_rows(size)]
                optimizer.set_local_hp_param(own_part, parameter, None if kind == WEIGHT else kind)
            elif (fragment := parameter._hp_mapping) is not None:
                _hp_part(part, fragment).copy_(_lp_part(value, fragment))


def _flat_weights(optimizer: Any, parameter: nn.Parameter) -> Tensor:
    """Returns the flat float32 weights of this rank that contain those of the parameter."""
    if hasattr(parameter, "ds_id"):
        group = optimizer.grad_position[optimizer.get_param_id(parameter)][0]
        return optimizer.fp32_partitioned_groups_flat[group]
    numbers = range(len(optimizer.bit16_groups))
    group = next(
        number
        for number in numbers
        if any(member is parameter for member in optimizer.bit16_groups[number])
    )
    return optimizer.single_partition_of_fp32_groups[group]


def _lp_part(full: Tensor, fragment: Any) -> Tensor:
    address = fragment.lp_fragment_address
    return full.narrow(0, address.start, address.numel)


def _hp_part(flat: Tensor, fragment: Any) -> Tensor:
    address = fragment.hp_fragment_address
    return flat.narrow(0, address.start, address.numel)
