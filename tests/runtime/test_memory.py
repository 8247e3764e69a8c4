"""What the activations of a token cost, and how many fit."""

import gc

import pytest
import torch
from torch import nn
from twins import texts_of

from trainer.batch import Texts
from trainer.microbatches import in_microbatches
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.runtime import memory


class Wide(nn.Module):
    """Keeps one float32 vector of 16 a padded token, and its own weight, which is no activation."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16, 16))

    def forward(self, texts):
        ids, _ = texts.pad()
        return (ids[..., None].float().expand(*ids.shape, 16).contiguous() @ self.weight).sum(1)


def test_bytes_per_token_equal_a_known_cost():
    module = Wide()
    assert memory.activation_bytes_per_token(module, module, texts_of(["abcd", "ab"])) == 16 * 4


def test_real_encoder_costs_more_with_more_layers(toy_folder):
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))
    texts = Texts.of([[5] * 20] * 2, [1, 2])
    kept = memory.activation_bytes_per_token(encoder, encoder, texts)
    assert kept > 2 * 32 * 4 * 4, "two layers of width 32, several tensors each"
    replayed = memory.activation_bytes_per_token(
        encoder, in_microbatches(encoder, 20, kept_tokens=0), texts
    )
    assert replayed < kept / 10


def test_memory_of_the_trial_is_freed(toy_folder):
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))

    def there():
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    before = there()
    memory.activation_bytes_per_token(encoder, encoder, Texts.of([[5] * 20] * 2, [1, 2]))
    assert there() == before


def test_kept_tokens_are_those_that_fit(monkeypatch):
    module = Wide()
    monkeypatch.setattr(
        memory,
        "available_bytes",
        lambda device, processes: (
            (64_000 // processes + 16 * 16 * memory._BYTES_PER_TRAINED_WEIGHT)
            / memory.MEMORY_SHARE["cpu"]
        ),
    )
    texts = texts_of(["abcd"])
    assert memory.kept_tokens(module, module, texts) == 1000
    assert memory.kept_tokens(module, module, texts, processes=4) == 250
    monkeypatch.setattr(memory, "available_bytes", lambda device, processes: 0)
    assert memory.kept_tokens(module, module, texts) == 0


def test_machine_has_memory():
    alone = memory.available_bytes(torch.device("cpu"))
    assert 2**26 < alone < 2**50
    assert memory.available_bytes(torch.device("cpu"), processes=8) == pytest.approx(
        alone / 8, rel=0.2
    )
