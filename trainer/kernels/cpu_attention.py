"""Attention for texts on a CPU, by plain matrix products.

PyTorch's fused attention for CPUs is made for long inputs. Its backward pass in bfloat16 takes five
times as long as the plain products at 16 to 250 tokens, and in float32, on more than one thread,
the plain ones win up to some 40 tokens (`benchmarks/cpu_attention.py`). Micro-batches are small, so
the matrix of probabilities that the plain form keeps is small too.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

NAME = "nearfar_cpu"
_LONGEST = {torch.bfloat16: 512, torch.float32: 40}
"""Up to how many tokens the plain products are the faster ones."""


def plain_attention(
    query: Float[Tensor, "text head query width"],
    key: Float[Tensor, "text head key width"],
    value: Float[Tensor, "text head key width"],
    attended: Bool[Tensor, "text head_or_1 query key"] | None,
    scale: float,
) -> Float[Tensor, "text head query width"]:
    """softmax(scale Q K^T) V, over the attended keys (Vaswani et al. 2017, equation 1)."""
    scores = torch.matmul(query * scale, key.mT)
    if attended is None:
        return torch.matmul(scores.softmax(-1), value)
    # The least number, not minus infinity: in a sliding window a row of padding attends to nothing,
    # and its softmax would be NaN, which the
    # backward pass spreads to every weight. Where a row attends to anything, both give exactly 0 to
    # what is masked.
    probabilities = scores.masked_fill(~attended, torch.finfo(scores.dtype).min).softmax(-1)
    # Such a row is zero, as in the fused form: mask tokens of a query, far from its text, are
    # scored although they attend to nothing. Here and not
    # among the probabilities, which would be kept for the backward pass twice, and are longer than
    # all else.
    return torch.matmul(probabilities, value).masked_fill(~attended.any(-1, keepdim=True), 0.0)


def cpu_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **settings: Any,
) -> tuple[Tensor, None]:
    """The plain form where it is the faster one and means the same, transformers' fused form
    everywhere else.
    """
    causal = settings.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    plain = (
        query.device.type == "cpu"
        and query.shape[-2] <= _LONGEST.get(query.dtype, 0)
        and query.shape[1] == key.shape[1]
        and dropout == 0.0
        and (attention_mask.dtype == torch.bool if attention_mask is not None else not causal)
        and settings.get("position_bias") is None
    )
    if not plain:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, **settings
        )
    scale = settings.get("scaling") or query.shape[-1] ** -0.5
    with torch.autocast("cpu", enabled=False):
        return (
            plain_attention(query, key, value, attention_mask, scale).transpose(1, 2).contiguous(),
            None,
        )


AttentionInterface.register(NAME, cpu_attention)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def use_cpu_attention(backbone: PreTrainedModel) -> bool:
    """Lets a backbone that uses the fused form take the faster one on a CPU; False, and nothing
    changed, for others.
    """
    if backbone.config._attn_implementation != "sdpa":
        return False
    backbone.set_attn_implementation(NAME)
    return True
