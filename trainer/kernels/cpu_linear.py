"""Linear layers whose float32 products on a CPU go through oneDNN where that is faster
(`trainer.kernels.matmul`). In bfloat16 they are plain `nn.Linear`.
"""

import torch
from torch import Tensor, nn

from trainer.kernels.matmul import linear


class OneDnnLinear(nn.Linear):
    """An `nn.Linear` (same parameters, same name in a state dict) that multiplies with oneDNN where
    that is faster.
    """

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b over the last axis."""
        return linear(input, self.weight, self.bias)


def use_onednn(module: nn.Module) -> int:
    """Turns every plain `nn.Linear` inside `module` into a `OneDnnLinear`; returns how many.
    Nothing on a machine without oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    plain = [layer for layer in module.modules() if type(layer) is nn.Linear]
    for layer in plain:
        layer.__class__ = OneDnnLinear
    return len(plain)
