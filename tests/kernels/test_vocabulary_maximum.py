"""The head of a sparse model in tiles against its formula, in value and gradient."""

import pytest
import torch
from twins import alike, value_and_gradient

from trainer.batch import Texts
from trainer.kernels import vocabulary_maximum as kernel
from trainer.models.parts.packed import micro_batch

LENGTHS, WIDTH, VOCABULARY = (90, 88, 19, 7, 7, 7, 3, 1), 5, 41


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch):
    monkeypatch.setitem(kernel.TILE_PRODUCTS, "cpu", 500)


def packing_of(lengths):
    texts = Texts.of([[0] * length for length in lengths], range(len(lengths)))
    return micro_batch(texts, torch.device("cpu")).packing


def plain_maximum(states, weight, bias, lengths):
    """The formula, with the number of each token and word in memory."""
    activations = torch.log1p((states @ weight.T + (0 if bias is None else bias)).relu())
    return torch.stack([part.amax(0) for part in activations.split(list(lengths))])


def head(dtype, has_bias=True, vocabulary=VOCABULARY):
    return (
        torch.randn(sum(LENGTHS), WIDTH, dtype=dtype, requires_grad=True),
        torch.randn(vocabulary, WIDTH, dtype=dtype, requires_grad=True),
        torch.randn(vocabulary, dtype=dtype, requires_grad=True) if has_bias else None,
    )


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_maximum_equals_its_formula(dtype, tolerance, has_bias):
    packing = packing_of(LENGTHS)
    assert any(group.sources is not None for group in packing.groups), "some texts are padded"
    states, weight, bias = head(dtype, has_bias)
    inputs = [states, weight, *([bias] if has_bias else [])]
    factors = torch.randn(len(LENGTHS), VOCABULARY, dtype=dtype)
    outputs = (
        kernel.vocabulary_maximum(states, weight, bias, packing),
        plain_maximum(states, weight, bias, LENGTHS),
    )
    assert 0.05 < (outputs[1] == 0).double().mean() < 0.95, "some words are active"
    forms = [value_and_gradient((output * factors).sum(), inputs) for output in outputs]
    torch.testing.assert_close(*outputs)
    assert alike(*forms, tolerance)


def test_output_without_gradient_is_the_same():
    states, weight, bias = head(torch.float64)
    output = kernel.vocabulary_maximum(states, weight, bias, packing_of(LENGTHS))
    with torch.no_grad():
        other = kernel.vocabulary_maximum(states, weight, bias, packing_of(LENGTHS))
    assert torch.equal(output, other)


def test_first_of_equal_tokens_has_the_gradient():
    states = torch.tensor([[1.0], [2.0], [2.0], [3.0]], requires_grad=True)
    output = kernel.vocabulary_maximum(states, torch.ones(1, 1), None, packing_of((3, 1)))
    output.sum().backward()
    assert output.exp().flatten().tolist() == pytest.approx([3.0, 4.0])
    assert states.grad.flatten().tolist() == pytest.approx([0.0, 1 / 3, 0.0, 1 / 4])


def test_word_that_is_not_active_has_no_gradient():
    states, weight = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[-1.0], [0.0]])
    output = kernel.vocabulary_maximum(states, weight, None, packing_of((1,)))
    output.sum().backward()
    assert output.tolist() == [[0.0, 0.0]]
    assert states.grad.tolist() == [[0.0]]


def test_autocast_multiplies_in_its_type_and_returns_float32():
    states, weight, _ = head(torch.float32)
    expected = plain_maximum(states.bfloat16(), weight.bfloat16(), None, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        output = kernel.vocabulary_maximum(states, weight, None, packing_of(LENGTHS))
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected.float(), atol=0.02, rtol=0.02)
    output.sum().backward()
    assert states.grad.dtype == torch.float32


def test_nothing_of_tokens_times_vocabulary_is_kept():
    """Else a step of 10 000 tokens would keep 1.2 GB of a vocabulary of 30 000."""
    states, weight, bias = head(torch.float32, vocabulary=1000)
    tensors = []
    with torch.autograd.graph.saved_tensors_hooks(tensors.append, lambda tensor: tensor):
        kernel.vocabulary_maximum(states, weight, bias, packing_of(LENGTHS))
    assert tensors
    assert max(tensor.numel() for tensor in tensors) <= len(LENGTHS) * 1000
