"""Attention on a CPU by plain matrix products.

PyTorch's fused attention for CPUs is made for long inputs. In bfloat16, its backward pass takes
five times as long as plain products at 16 to 250 tokens. In float32, on several threads, plain
products are faster up to about 40 tokens (`benchmarks/cpu_attention.py`). The matrix of
probabilities, which plain products store, is small because micro-batches are small.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_MAX_TOKENS = {torch.bfloat16: 512, torch.float32: 40}
"""The largest number of tokens for which plain products are faster."""


def plain_attention(
    query: Float[Tensor, "text head query width"],
    key: Float[Tensor, "text head key width"],
    value: Float[Tensor, "text head key width"],
    attention_mask: Bool[Tensor, "#text #head #query key"] | None,
    scale: float,
) -> Float[Tensor, "text head query width"]:
    """softmax(scale Q K^T) V over the keys in the mask (Vaswani et al. 2017, equation 1)."""
    scores = torch.matmul(query * scale, key.mT)
    if attention_mask is None:
        return torch.matmul(scores.softmax(-1), value)
    # The lowest finite number, not minus infinity: in a sliding window, a row of padding attends to
    # nothing. Its softmax would be NaN, which the backward pass would spread to every weight. In
    # all other rows, both give exactly 0 to masked keys.
    probabilities = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min).softmax(-1)
    # A row that attends to nothing becomes zero, as in the fused form. It may be scored: a mask
    # token of a query, far from its text. The product is masked, not the probabilities: they are
    # the largest tensor here, and would be stored twice for the backward pass.
    has_keys = attention_mask.any(-1, keepdim=True)
    return torch.matmul(probabilities, value).masked_fill(~has_keys, 0.0)


def plain_is_faster(query: Float[Tensor, "text head query width"]) -> bool:
    """Returns whether plain products are faster than the fused form, without dropout."""
    return query.device.type == "cpu" and query.shape[-2] <= _MAX_TOKENS.get(query.dtype, 0)
