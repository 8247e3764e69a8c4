"""Attention over packed texts: the tokens of a micro-batch end to end, without padding.

Linear layers see one row per token and never know of texts. Only attention looks at texts. On a GPU
it is one kernel for texts of any lengths. Elsewhere it runs in groups of texts of similar length,
and only inside a group is there padding.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from trainer.kernels.cpu_attention import plain_attention, plain_is_faster
from trainer.kernels.packing import Group, Packing

_VARLEN_DTYPES = (torch.bfloat16, torch.float16)


def packed_attention(
    query: Float[Tensor, "head row width"],
    key: Float[Tensor, "key_head row width"],
    value: Float[Tensor, "key_head row width"],
    packing: Packing,
    scale: float,
    is_causal: bool,
    sliding_window: int | None,
    dropout: float,
) -> Float[Tensor, "row head width"]:
    """Returns softmax(scale Q K^T) V within each text (Vaswani et al. 2017, equation 1).

    With a sliding window of w, token i attends to j only if |i - j| < w.
    """
    device = query.device.type
    if torch.is_autocast_enabled(device) and query.dtype != torch.float64:
        # Rotated queries and keys are in float32. Autocast leaves float64 as it is.
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    reach = -1 if sliding_window is None else sliding_window - 1
    window = (reach, 0 if is_causal else reach)
    varlen = _varlen_kernel() if device == "cuda" and query.dtype in _VARLEN_DTYPES else None
    if varlen is None or dropout or packing.has_unattended:
        return _in_groups(query, key, value, packing, scale, window, dropout)
    output: Tensor = varlen(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        packing.kernel_offsets,
        packing.kernel_offsets,
        packing.max_length,
        packing.max_length,
        scale=scale,
        window_size=window,
        enable_gqa=len(key) != len(query),
    )
    return output


@cache
def _varlen_kernel() -> Callable[..., Any] | None:
    """Returns PyTorch's kernel for texts of any lengths, if it takes all arguments needed here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    parameters = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= set(parameters) else None


@torch.compiler.disable
def _in_groups(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scale: float,
    window: tuple[int, int],
    dropout: float,
) -> Float[Tensor, "row head width"]:
    repeats = len(query) // len(key)
    if repeats > 1:
        key, value = (tensor.repeat_interleave(repeats, 0) for tensor in (key, value))
    heads, rows = query.shape[:2]
    sizes = [group.rows for group in packing.groups]
    sizes.append(rows - sum(sizes))  # rows that fill up
    parts = [
        tensor.transpose(0, 1).reshape(rows, -1).split(sizes) for tensor in (query, key, value)
    ]
    outputs = [
        _attend(group, [part[number] for part in parts], heads, scale, window, dropout)
        for number, group in enumerate(packing.groups)
    ]
    fill = parts[2][-1].new_zeros(parts[2][-1].shape)
    return torch.cat([*outputs, fill]).unflatten(1, (heads, -1))


def _attend(
    group: Group,
    rows: list[Float[Tensor, "row features"]],
    heads: int,
    scale: float,
    window: tuple[int, int],
    dropout: float,
) -> Float[Tensor, "row features"]:
    """Attention within the texts of one group."""
    if group.sources is not None:
        rows = [_Pad.apply(tensor, group.sources, group.places) for tensor in rows]
    query, key, value = (
        tensor.view(group.texts, group.longest, heads, -1).transpose(1, 2) for tensor in rows
    )
    mask = _mask(group, window, query.device)
    if dropout == 0.0 and plain_is_faster(query):
        with torch.autocast("cpu", enabled=False):
            output = plain_attention(query, key, value, mask, scale)
    else:
        output = functional.scaled_dot_product_attention(
            query, key, value, mask, dropout, scale=scale
        )
    output = output.transpose(1, 2).reshape(group.texts * group.longest, -1)
    return output if group.places is None else _Unpad.apply(output, group.places)


def _mask(
    group: Group, window: tuple[int, int], device: torch.device
) -> Bool[Tensor, "text_or_1 1 query key"] | None:
    backward, forward = (reach if 0 <= reach < group.longest - 1 else -1 for reach in window)
    if backward == forward == -1:
        return group.is_key
    places = torch.arange(group.longest, device=device)
    distance = places - places[:, None]  # from the query to the key
    in_reach = torch.ones_like(distance, dtype=torch.bool)
    if backward != -1:
        in_reach &= distance >= -backward
    if forward != -1:
        in_reach &= distance <= forward
    return in_reach[None, None] if group.is_key is None else group.is_key & in_reach


class _Pad(torch.autograd.Function):
    """Rows to a padded matrix. A place of padding shows the last row of its text, and its gradient
    is dropped, because its output is.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sources: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return rows.index_select(0, sources)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, *ctx.saved_tensors), None, None


class _Unpad(torch.autograd.Function):
    """A padded matrix to rows. The gradient of padding is zero."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = matrix.shape
        return matrix.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_copy_(0, places, gradient), None
