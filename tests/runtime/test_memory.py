"""What the activations of a token cost, and how many fit."""

import gc
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from twins import texts_of

from trainer.batch import Texts
from trainer.microbatches import in_microbatches
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.runtime import memory


class Wide(nn.Module):
    """Stores 16 float32 numbers per token, 2 000 bytes of whatever size a micro-batch has, and its
    own weight, which is no activation.
    """

    def __init__(self, constant=500):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16, 16))
        self.bias = nn.Parameter(torch.ones(constant))

    def forward(self, texts):
        vectors = texts.tokens[:, None].float().expand(-1, 16).contiguous() @ self.weight
        copy = self.bias.double().float()  # as autocast makes one, of every weight
        return vectors.sum() + (copy * copy.detach()).sum()


def test_stored_bytes_equal_a_known_cost():
    module = Wide(constant=500)
    assert memory.stored_bytes(module, module, texts_of(["abcd", "ab"])) == 6 * 16 * 4 + 2000


@pytest.mark.parametrize("constant", [0, 500, 100_000])
@pytest.mark.parametrize(("length", "tokens"), [(8, 64), (8, 70), (64, 64), (64, 10), (63, 10)])
def test_cost_of_a_token_does_not_depend_on_the_constant_part(constant, length, tokens):
    module = Wide(constant)
    cost = memory.activation_cost(module, module, length, tokens)
    assert cost == memory.ActivationCost(per_token=64.0, per_micro_batch=4.0 * constant)


def test_cost_of_a_real_encoder_is_linear(toy_folder):
    """The cost of two sizes says that of a third one."""
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))
    with torch.autocast("cpu", torch.bfloat16):
        cost = memory.activation_cost(encoder, encoder, length=20, tokens=80)
        texts = Texts.of([[5] * 20] * 12, range(12))
        actual_bytes = memory.stored_bytes(encoder, encoder, texts)
    assert cost.per_token > 2 * 32 * 4 * 4, "two layers of width 32, several tensors each"
    weights = sum(parameter.numel() for parameter in encoder.backbone.encoder.parameters())
    assert cost.per_micro_batch == pytest.approx(2 * weights, rel=0.3), "copies in bf16"
    assert cost.total(12 * 20, micro_batch_tokens=12 * 20) == pytest.approx(actual_bytes, rel=0.02)


def test_recomputed_micro_batch_stores_little(toy_folder):
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))
    texts = Texts.of([[5] * 20] * 2, [1, 2])
    in_parts = in_microbatches(encoder, 20, kept_tokens=0)
    recomputed_bytes = memory.stored_bytes(encoder, in_parts, texts)
    assert recomputed_bytes < memory.stored_bytes(encoder, encoder, texts) / 10


def test_memory_of_the_trial_is_freed(toy_folder):
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))

    def there():
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    before = there()
    memory.activation_cost(encoder, encoder, 20, 80)
    assert there() == before


def test_free_bytes_are_a_share_beside_the_optimizer(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device, processes: 160_000 // processes)
    optimizer_bytes = memory._BYTES_PER_TRAINED_WEIGHT * (16 * 16 + 10)
    for processes in (1, 4):
        free_bytes = memory.free_activation_bytes(Wide(constant=10), processes)
        assert free_bytes == 160_000 / 16 / processes - optimizer_bytes


def test_ranks_that_share_the_weights_have_more_free_bytes(monkeypatch):
    """Each keeps a quarter of the 266 weights and of their state."""
    monkeypatch.setattr(memory, "available_bytes", lambda device, processes: 160_000)
    free_bytes = memory.free_activation_bytes(Wide(constant=10), ranks_per_copy=4)
    assert free_bytes == (160_000 + 4 * 266 * 3 / 4) / 16 - 16 * 266 / 4


def test_allocator_of_a_gpu_grows_its_blocks_unless_the_user_has_set_it_up():
    name = "PYTORCH_CUDA_ALLOC_CONF"
    for given, expected in (
        ({}, "expandable_segments:True"),
        ({name: "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_ALLOC_CONF": "x"}, None),
    ):
        program = (
            f"import trainer, os, sys; print('torch' in sys.modules, os.environ.get({name!r}))"
        )
        environ = {key: value for key, value in os.environ.items() if "ALLOC_CONF" not in key}
        command = [sys.executable, "-c", program]
        printed = subprocess.run(
            command, env=environ | given, capture_output=True, text=True, check=True
        )
        assert printed.stdout == f"False {expected}\n"


def test_machine_has_memory():
    alone = memory.available_bytes(torch.device("cpu"))
    assert 2**26 < alone < 2**50
    assert memory.available_bytes(torch.device("cpu"), processes=8) == pytest.approx(
        alone / 8, rel=0.2
    )
