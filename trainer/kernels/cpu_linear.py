"""Linear layers that multiply float32 on a CPU with oneDNN where that is faster.

`trainer.kernels.matmul` decides. In bfloat16 these layers equal `nn.Linear`.
"""

import torch
from torch import Tensor, nn

from trainer.kernels.matmul import linear


class OneDnnLinear(nn.Linear):
    """An `nn.Linear`, with the same parameters and state dict, that may multiply with oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b over the last axis."""
        return linear(input, self.weight, self.bias)


def use_onednn(module: nn.Module) -> int:
    """Turns every `nn.Linear` in `module` into a `OneDnnLinear`; returns the number of layers.

    On a machine without oneDNN it does nothing. Subclasses of `nn.Linear` are left as they are.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    layers = [layer for layer in module.modules() if type(layer) is nn.Linear]
    for layer in layers:
        layer.__class__ = OneDnnLinear
    return len(layers)
