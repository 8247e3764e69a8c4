"""Linear layers whose weights are rounded once, in the format that computes.

Autocast rounds a float32 weight on every call. Rounded once, it gives the same numbers, and the
rounding takes no time. This is done for frozen weights in training, where it also takes half of the
device's memory, and for all weights in inference. The exact weight of a frozen layer stays in main
memory for merging adapters and for work in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.kernels.cpu_linear import OneDnnLinear
from trainer.kernels.matmul import linear


class RoundedLinear(OneDnnLinear):
    """A frozen `nn.Linear` with a rounded weight for autocast and its exact one in main memory."""

    exact_weight: Tensor
    """Not a parameter, so it does not move to a device with the module."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b over the last axis."""
        if torch.is_autocast_enabled(input.device.type):
            return functional.linear(input, self.weight, self.bias)
        return linear(input, self.exact_weight.to(input.device), self.bias)


def round_frozen_weights(module: nn.Module, dtype: torch.dtype) -> int:
    """Rounds the weight of each frozen linear layer in `module`; returns the number of layers."""
    layers: list[Any] = [
        layer
        for layer in module.modules()
        if type(layer) in (nn.Linear, OneDnnLinear)
        and not layer.weight.requires_grad
        and layer.weight.dtype == torch.float32
    ]
    for layer in layers:
        exact_weight = layer.weight.detach()
        layer.__class__ = RoundedLinear
        vars(layer)["exact_weight"] = exact_weight.cpu()
        layer.weight = nn.Parameter(exact_weight.to(dtype), requires_grad=False)
    return len(layers)


def exact_weight(layer: nn.Module) -> Tensor:
    """Returns the weight of a linear layer before it was rounded, on the layer's device."""
    weight: Any = layer.weight
    return layer.exact_weight.to(weight.device) if isinstance(layer, RoundedLinear) else weight


@contextmanager
def rounded_weights(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Context in which linear layers see their float32 weights rounded to `dtype`.

    The parameters stay as they are. Sharded weights are left to autocast, and those of DoRA, which
    needs their exact norms. Threads that use a module at once must all use this context.
    """
    is_dora = any("lora_magnitude_vector" in name for name, _ in module.named_parameters())
    layers: list[Any] = [
        layer
        for layer in (() if is_dora else module.modules())
        if type(layer) in (nn.Linear, OneDnnLinear)
        and type(layer.weight) is nn.Parameter
        and layer.weight.dtype == torch.float32
        and layer.weight.numel() > 0
    ]
    try:
        for layer in layers:
            vars(layer)["weight"] = layer.weight.detach().to(dtype)  # found before the parameter
        yield
    finally:
        for layer in layers:
            vars(layer).pop("weight", None)
