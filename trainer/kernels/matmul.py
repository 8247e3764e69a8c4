"""Matrix products in float32 by oneDNN, on CPUs with AVX-512 that Intel has not made.

PyTorch computes float32 matrix products on a CPU with MKL, which uses AVX-512 on Intel's processors
only. On others it reaches about half of their speed. On Intel's processors, and with AVX2 alone,
MKL is up to twice as fast as oneDNN (`benchmarks/cpu_linear.py` measures both). The results differ
by rounding only.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_product = torch.ops.mkldnn._linear_pointwise


def _is_intel_cpu() -> bool:
    """True for an Intel CPU; False if that is unknown, e.g. outside Linux."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as information:
            return "GenuineIntel" in information.read(256)
    except OSError:
        return False


MKL_IS_FASTER = torch.backends.mkl.is_available() and (
    _is_intel_cpu() or torch.backends.cpu.get_cpu_capability() != "AVX512"
)


def linear(
    values: Float[Tensor, "*row input"],
    weight: Float[Tensor, "output input"],
    bias: Float[Tensor, " output"] | None = None,
) -> Float[Tensor, "*row output"]:
    """values W^T + b, like `torch.nn.functional.linear`; with oneDNN where that is faster."""
    if (
        values.device.type != "cpu"
        or values.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
        or MKL_IS_FASTER
        or not torch.backends.mkldnn.is_available()
        or weight.dtype != torch.float32
        or values.dim() < 2
        or values.numel() == 0
        or weight.numel() == 0
    ):
        return functional.linear(values, weight, bias)
    return _OneDnnLinear.apply(values, weight, bias)


def onednn_linear(
    values: Float[Tensor, "row input"],
    weight: Float[Tensor, "output input"],
    bias: Float[Tensor, " output"] | None,
) -> Float[Tensor, "row output"]:
    """The product by oneDNN, without an autograd graph."""
    return _product(values, weight, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    """y = x W^T + b;  dx = g W;  dW = g^T x;  db = sum of g over the rows."""

    @staticmethod
    def forward(ctx, values, weight, bias):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(values if weight.requires_grad else None, weight)
        return onednn_linear(values.flatten(0, -2), weight, bias).unflatten(0, values.shape[:-1])

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        values, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        grad_values = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_values = onednn_linear(rows, weight.t(), None).unflatten(0, gradient.shape[:-1])
        if ctx.needs_input_grad[1]:
            grad_weight = onednn_linear(rows.t(), values.flatten(0, -2).t(), None)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        return grad_values, grad_weight, grad_bias
