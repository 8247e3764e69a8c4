"""The attention function of all backbones: packed texts, plain products on a CPU, or PyTorch's."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from trainer.kernels.cpu_attention import plain_attention, plain_is_faster
from trainer.kernels.packed_attention import packed_attention
from trainer.kernels.packing import Packing

NAME = "nearfar"
"""The name of `attention` in transformers."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: from `[text, head, token, width]` to `[text, token, head,
    width]`.

    With `packing`, there is one row of texts end to end, and `attention_mask` is not read. Without
    it, plain products are used where they are faster and equal, and PyTorch's fused form elsewhere.
    """
    causal = settings.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    scale = settings.get("scaling") or query.shape[-1] ** -0.5
    if packing is not None:
        window = settings.get("sliding_window")
        output = packed_attention(
            query[0], key[0], value[0], packing, scale, causal, window, dropout
        )
        return output[None], None
    use_plain = (
        plain_is_faster(query)
        and query.shape[1] == key.shape[1]
        and dropout == 0.0
        and (attention_mask.dtype == torch.bool if attention_mask is not None else not causal)
        and settings.get("position_bias") is None
    )
    if not use_plain:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, **settings
        )
    with torch.autocast("cpu", enabled=False):
        output = plain_attention(query, key, value, attention_mask, scale)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def use_attention(backbone: PreTrainedModel) -> bool:
    """Makes a backbone with fused attention use `attention`; returns False for any other."""
    if backbone.config._attn_implementation != "sdpa":
        return False
    backbone.set_attn_implementation(NAME)
    return True
