"""Plain attention against loops and against PyTorch's fused form, and through whole backbones that
take it.
"""

import math

import pytest
import torch
from torch.nn import functional
from toy_models import FAMILIES, SENTENCES
from twins import alike, value_and_gradient

from trainer.kernels import attention as attention_kernel
from trainer.kernels import cpu_attention, packed_attention
from trainer.kernels.cpu_attention import plain_attention
from trainer.models.dense import DenseSettings, build_dense_encoder

SHAPE = (3, 2, 5, 4)
"""Texts, heads, tokens, width."""


def heads(dtype=torch.float64, tokens=5):
    return [torch.randn(3, 2, tokens, 4, dtype=dtype, requires_grad=True) for _ in range(3)]


def padding(tokens=5):
    lengths = torch.tensor([tokens, 2, 1])
    return (torch.arange(tokens) < lengths[:, None])[:, None, None, :].expand(3, 1, tokens, tokens)


def loops(query, key, value, attended, scale):
    out = torch.zeros_like(query)
    rows = []
    for text in range(query.shape[0]):
        for head in range(query.shape[1]):
            for place in range(query.shape[2]):
                seen = [
                    at
                    for at in range(key.shape[2])
                    if attended is None or attended[text, 0, place, at]
                ]
                weights = torch.stack(
                    [scale * (query[text, head, place] @ key[text, head, at]) for at in seen]
                ).softmax(0)
                rows.append(
                    sum(
                        weight * value[text, head, at]
                        for weight, at in zip(weights, seen, strict=True)
                    )
                )
    return torch.stack(rows).view(out.shape)


@pytest.mark.parametrize("attended", [None, padding()], ids=["all", "padded"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_plain_attention_equals_loops_and_the_fused_form(attended, dtype):
    tensors, weights = heads(dtype), torch.randn(SHAPE, dtype=dtype)
    forms = [
        plain_attention(*tensors, attended, 0.4),
        loops(*tensors, attended, 0.4),
        functional.scaled_dot_product_attention(*tensors, attn_mask=attended, scale=0.4),
    ]
    plain, slow, fused = (value_and_gradient((form * weights).sum(), tensors) for form in forms)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5}[dtype]
    assert alike(plain, slow, tolerance)
    assert alike(plain, fused, tolerance)


def test_probabilities_are_stored_once():
    """They are as many as there are tokens, for each token and head: longer than all that goes
    in.
    """
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        plain_attention(*heads(tokens=50), padding(50), 0.4)
    assert (
        sum(
            tensor.numel() == 3 * 2 * 50 * 50 and tensor.dtype.is_floating_point
            for tensor in kept.values()
        )
        == 1
    )


def test_ignored_mask_is_caught():
    tensors = heads()
    results = [
        value_and_gradient(plain_attention(*tensors, mask, 0.4).square().sum(), tensors)
        for mask in (padding(), None)
    ]
    assert not alike(*results, 1e-2)


def test_masked_keys_have_a_gradient_of_exactly_zero():
    query, key, value = heads()
    plain_attention(query, key, value, padding(), 0.4).square().sum().backward()
    assert key.grad[1, :, 2:].abs().max() == 0
    assert value.grad[1, :, 2:].abs().max() == 0
    assert value.grad[1, :, :2].abs().min() > 0


def test_row_that_attends_to_nothing_spreads_no_nan():
    """Padding beyond a sliding window: whatever such a row becomes, it is finite, and the rows that
    count are as without it.
    """
    attended = padding() & torch.ones(5, 5, dtype=torch.bool).tril(1).triu(-1)
    assert (~attended.any(-1)).any()
    tensors, counts = heads(), padding()[:, :, 0, :, None]
    plain = plain_attention(*tensors, attended, 0.4)
    assert plain.isfinite().all()
    wanted = functional.scaled_dot_product_attention(*tensors, attn_mask=attended, scale=0.4)
    forms = [
        value_and_gradient(form.square().masked_fill(~counts, 0.0).sum(), tensors)
        for form in (plain, wanted)
    ]
    assert alike(*forms, 1e-10)


class Layer(torch.nn.Module):
    is_causal = False
    num_key_value_groups = 1


class TestChoice:
    """Plain where it is the faster one and means the same; the fused form everywhere else, with the
    same outcome.
    """

    def run(self, monkeypatch, tokens=5, mask=None, dtype=torch.float32, keys=None, **settings):
        """Whether the plain form was taken, and the outcome."""
        taken = []
        monkeypatch.setattr(
            attention_kernel,
            "plain_attention",
            lambda *given: taken.append(1) or plain_attention(*given),
        )
        query, key, value = (tensor.detach().to(dtype) for tensor in heads(torch.float32, tokens))
        if keys:
            key, value = key[:, :keys], value[:, :keys]
        out, _ = attention_kernel.attention(Layer(), query, key, value, mask, **settings)
        return bool(taken), out, (query, key, value)

    @pytest.mark.parametrize(("dtype", "longest"), [(torch.float32, 40), (torch.bfloat16, 512)])
    def test_form_depends_on_the_length(self, monkeypatch, dtype, longest):
        assert self.run(monkeypatch, longest, dtype=dtype)[0]
        assert not self.run(monkeypatch, longest + 1, dtype=dtype)[0]

    def test_fused_form_is_used_for_float64(self, monkeypatch):
        assert not self.run(monkeypatch, dtype=torch.float64)[0]

    def test_fused_form_is_used_with_dropout(self, monkeypatch):
        assert not self.run(monkeypatch, dropout=0.1)[0]

    def test_fused_form_is_used_with_an_additive_mask(self, monkeypatch):
        assert not self.run(monkeypatch, mask=torch.zeros(3, 1, 5, 5))[0]

    def test_fused_form_is_used_for_causal_attention_without_a_mask(self, monkeypatch):
        taken, out, tensors = self.run(monkeypatch, is_causal=True)
        assert not taken
        wanted = functional.scaled_dot_product_attention(*tensors, is_causal=True)
        torch.testing.assert_close(out, wanted.transpose(1, 2))

    @pytest.mark.parametrize("mask", [None, padding()], ids=["all", "padded"])
    @pytest.mark.parametrize("scaling", [None, 0.3])
    def test_both_forms_give_the_same(self, monkeypatch, mask, scaling):
        taken, out, tensors = self.run(monkeypatch, mask=mask, scaling=scaling)
        assert taken
        wanted = functional.scaled_dot_product_attention(
            *tensors, attn_mask=mask, scale=scaling or 1 / math.sqrt(4)
        )
        torch.testing.assert_close(out, wanted.transpose(1, 2), rtol=1e-5, atol=1e-6)
        assert out.is_contiguous()


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_backbones_give_the_same_vectors_and_gradients(toy_folder, family, monkeypatch):
    """Plain and fused attention, in whichever form the backbone takes texts."""
    encoder = build_dense_encoder(
        DenseSettings(backbone=str(toy_folder(family)), lora=None)
    ).train()
    texts = encoder.tokenize(SENTENCES, "document")
    parameters = list(encoder.parameters())
    module = attention_kernel if encoder.is_padded else packed_attention
    taken = []
    monkeypatch.setattr(
        module, "plain_attention", lambda *given: taken.append(1) or plain_attention(*given)
    )

    def learned(longest):
        monkeypatch.setitem(cpu_attention._MAX_TOKENS, torch.float32, longest)
        vectors = encoder(texts)
        return value_and_gradient(
            (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum(), parameters
        )

    plain = learned(512)
    count = len(taken)
    assert bool(count) == (family != "mpnet"), "MPNet has attention of its own"
    fused = learned(0)
    assert len(taken) == count
    assert alike(plain, fused, 1e-4)
