"""The head of a sparse model in tiles: the largest activation per text and word of the vocabulary.

The plain form has one number per token and word: 8 GB for 64 documents of 1 024 tokens and 30 522
words in float32. A tile has the products of some tokens with some words. Of it stay the maximum per
text and word, and the token that has it, which is all that the gradient needs.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.kernels.matmul import linear
from trainer.kernels.maxsim import smallest_dtype
from trainer.kernels.packing import Group, Packing

TILE_PRODUCTS = {"cpu": 2**20, "cuda": 2**26}
"""The largest number of products of tokens and words per tile."""


def vocabulary_maximum(
    states: Float[Tensor, "token width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    packing: Packing,
) -> Float[Tensor, "text vocabulary"]:
    """Returns log(1 + relu(x)) for the largest x = state . weight + bias of each text and word
    (SPLADE v2, Formal et al. 2021), in float32 or better.

    Products are in autocast's type. A gradient goes to the token with the largest x, of several to
    the first one, and to none where x is not above 0. Besides result and inputs, the backward pass
    keeps one small integer per text and word. On a GPU it waits once for the number of active
    terms that have a gradient.
    """
    if torch.is_autocast_enabled(states.device.type):
        states = states.to(torch.get_autocast_dtype(states.device.type))
    with torch.autocast(states.device.type, enabled=False):
        return _VocabularyMaximum.apply(states, weight, bias, packing)


class _VocabularyMaximum(torch.autograd.Function):
    """y_iv = log(1 + relu(s_t . w_v + b_v)) with the best token t = t(i, v). With h = g exp(-y) if
    y > 0, else 0:  ds_t = sum of h_iv w_v over the i, v with t(i, v) = t;  dw_v = sum over i of
    h_iv s_t(i, v);  db_v = sum over i of h_iv.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, packing: Packing
    ) -> Tensor:
        dtype = torch.promote_types(states.dtype, torch.float32)
        shape = (len(packing.lengths), len(weight))
        output = torch.empty(shape, dtype=dtype, device=states.device)
        positions = None
        if any(ctx.needs_input_grad):
            positions = output.new_empty(shape, dtype=smallest_dtype(packing.longest))
        for texts, rows, group in _groups(states, packing):
            last = packing.counts[texts, None] - 1
            for words in _tiles(len(rows), weight):
                products = linear(rows, weight[words].to(rows.dtype))
                products = products.view(group.texts, group.longest, -1)
                if positions is None:
                    output[texts, words] = products.amax(1)
                else:
                    best = products.max(1)
                    output[texts, words] = best.values.to(dtype)
                    # Rows after a text repeat its last token, and may differ from it by rounding.
                    positions[texts, words] = best.indices.minimum(last).to(positions.dtype)
        if bias is not None:
            output += bias
        output.relu_().log1p_()
        ctx.save_for_backward(states, weight, positions, output)
        ctx.packing, ctx.has_bias = packing, bias is not None
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, positions, output = ctx.saved_tensors
        gradient = (gradient * (-output).exp_()).masked_fill_(output == 0, 0.0)
        grad_states = grad_weight = grad_bias = None
        texts, words = gradient.nonzero(as_tuple=True)
        tokens = ctx.packing.offsets[texts] + positions[texts, words]
        factors = gradient[texts, words]
        if ctx.needs_input_grad[0]:
            grad_states = _sums(tokens, words, factors, weight, len(states)).to(states.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = _sums(words, tokens, factors, states, len(weight)).to(weight.dtype)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = gradient.sum(0)
        return grad_states, grad_weight, grad_bias, None


def _sums(
    keys: Int[Tensor, " term"],
    rows: Int[Tensor, " term"],
    factors: Float[Tensor, " term"],
    table: Float[Tensor, "row width"],
    count: int,
) -> Float[Tensor, "key width"]:
    """Returns for each key, from 0 to `count`, the sum of its terms: a factor times a row."""
    keys, order = keys.sort(stable=True)
    offsets = torch.searchsorted(keys, torch.arange(count + 1, device=keys.device))
    return functional.embedding_bag(
        rows[order],
        table.to(factors.dtype),
        offsets,
        per_sample_weights=factors[order],
        mode="sum",
        include_last_offset=True,
    )


def _groups(
    states: Float[Tensor, "token width"], packing: Packing
) -> Iterator[tuple[slice, Float[Tensor, "row width"], Group]]:
    """Yields groups of texts of similar length, and their tokens, equally many per text."""
    text = token = 0
    for group in packing.groups:
        rows = states[token : token + group.rows]
        if group.sources is not None:
            rows = rows[group.sources]
        yield slice(text, text + group.texts), rows, group
        text, token = text + group.texts, token + group.rows


def _tiles(rows: int, weight: Float[Tensor, "vocabulary width"]) -> Iterator[slice]:
    """Yields the words of each tile, for that many tokens."""
    size = TILE_PRODUCTS.get(weight.device.type, TILE_PRODUCTS["cuda"])
    words = max(1, size // rows)
    for start in range(0, len(weight), words):
        yield slice(start, start + words)
