"""Outputs of activation functions are not kept, and the gradient is that of keeping them, to the bit."""

import gc

import pytest
import torch
from torch import nn
from toy_models import SENTENCES
from transformers.activations import ACT2FN

from trainer import recipe
from trainer.kept import lean
from trainer.models.dense import load_encoder

WIDE = 64


class Layer(nn.Module):
    """One feed-forward layer, whose function is given."""

    def __init__(self, function, between=None):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.wide, self.narrow = nn.Linear(8, WIDE), nn.Linear(WIDE, 8)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)
        self.function, self.between = function, between or nn.Identity()

    def forward(self, values):
        return self.narrow(self.between(self.function(self.wide(values))))


def learned(module, values):
    """Outcome and gradients, and the bytes that were kept, each storage once."""
    kept = {}
    with lean(lambda tensor: kept.__setitem__(tensor.untyped_storage().data_ptr(), tensor)):
        out = module(values)
    taken = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return out.detach(), torch.autograd.grad(out.sin().sum(), list(module.parameters())), taken


def kept_whole(module, values):
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(values)
    taken = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return out.detach(), torch.autograd.grad(out.sin().sum(), list(module.parameters())), taken


def same(one, other):
    return torch.equal(one[0], other[0]) and all(torch.equal(mine, its) for mine, its in zip(one[1], other[1], strict=True))


@pytest.mark.parametrize("name", ["gelu", "gelu_pytorch_tanh", "silu", "swish"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_gradient_with_less_kept(name, precision):
    module, values = Layer(ACT2FN[name]), torch.randn(5, 7, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        whole, found = kept_whole(module, values), learned(module, values)
    assert same(found, whole)
    assert whole[2] - found[2] == 5 * 7 * WIDE * (2 if precision == "bf16" else 4), "the output, and nothing else"


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu_new", "quick_gelu"])
def test_a_function_that_keeps_its_output_or_is_several_is_left_alone(name):
    module, values = Layer(ACT2FN[name]), torch.randn(5, 8)
    whole, found = kept_whole(module, values), learned(module, values)
    assert same(found, whole)
    assert found[2] == whole[2]


class Doubled(nn.Module):
    """Changes its input in place, as a dropout may."""

    def forward(self, values):
        return values.mul_(2.0)


def test_an_output_changed_in_place_is_kept():
    module, values = Layer(nn.GELU(), between=Doubled()), torch.randn(5, 8)
    assert same(learned(module, values), kept_whole(module, values))


def test_a_tensor_that_lies_where_an_output_lay_is_not_taken_for_it():
    function, wide, narrow = nn.GELU(), torch.randn(64, WIDE, requires_grad=True), nn.Linear(WIDE, 8)
    again = 0
    with lean():
        for _ in range(50):
            out = function(wide)
            place = out.data_ptr()
            del out
            gc.collect()
            other = torch.full((64, WIDE), 3.0)
            if other.data_ptr() != place:
                continue
            again += 1
            (gradient,) = torch.autograd.grad(narrow(other).sum(), [narrow.weight])
            assert torch.equal(gradient, torch.full((8, WIDE), 3.0 * 64))
    assert again, "memory was used again, or this test shows nothing"


def test_nothing_is_left_behind():
    hooks = dict(nn.modules.module._global_forward_hooks)

    def fails():
        with lean():
            assert len(nn.modules.module._global_forward_hooks) == len(hooks) + 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert nn.modules.module._global_forward_hooks == hooks


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "mpnet", "distilbert", "qwen3", "llama"])
def test_whole_backbones(toy_folder, family):
    encoder = load_encoder(recipe.Model(backbone=str(toy_folder(family)), tuning=recipe.FullTuning())).train()
    texts = encoder.tokenize(SENTENCES, "document")
    whole, found = kept_whole(encoder, texts), learned(encoder, texts)
    assert same(found, whole)
    assert found[2] < whole[2], "the widest tensors of every layer"


def test_beside_activation_checkpointing(toy_folder):
    """Layers that are computed again as a whole keep nothing of their own."""
    outcomes = []
    for checkpointing in (False, True):
        model = recipe.Model(backbone=str(toy_folder("bert")), tuning=recipe.FullTuning(), activation_checkpointing=checkpointing)
        encoder = load_encoder(model).train()
        outcomes.append(learned(encoder, encoder.tokenize(SENTENCES, "document")))
    assert same(*outcomes)
    assert outcomes[1][2] < outcomes[0][2] / 3
