"""Frozen weights that are rounded once give what autocast gives by rounding on each call."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from toy_models import SENTENCES
from twins import value_and_gradient

from trainer.build.module import lightning_module
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.parts.lora import adapter_changed, merged_state
from trainer.models.parts.rounded import (
    RoundedLinear,
    exact_weight,
    round_frozen_weights,
    rounded_weights,
)
from trainer.models.settings import Lora
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import BiEncoderRecipe
from trainer.recipe.schema.machine import MachineSection
from trainer.recipe.schema.model import BiEncoderModel, FullTuning, LoraTuning
from trainer.strategies.machine.plan import Plan


@pytest.fixture
def encoders(toy_folder):
    """A LoRA model and its copy with rounded weights."""
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=Lora()))
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    rounded_encoder = copy.deepcopy(encoder)
    assert round_frozen_weights(rounded_encoder.backbone, torch.bfloat16) == 12
    return encoder, rounded_encoder


def learned(encoder, is_autocast=True):
    parameters = [value for value in encoder.parameters() if value.requires_grad]
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        vectors = encoder(encoder.tokenize(SENTENCES, "document"))
    weights = torch.linspace(-1, 1, vectors.numel()).view_as(vectors)
    return value_and_gradient((vectors * weights).sum(), parameters)


@pytest.mark.parametrize("is_autocast", [True, False])
def test_rounded_weights_change_no_bit(encoders, is_autocast):
    value, gradient = learned(encoders[0], is_autocast)
    rounded_value, rounded_gradient = learned(encoders[1], is_autocast)
    assert torch.equal(torch.as_tensor(value), torch.as_tensor(rounded_value))
    assert torch.equal(gradient, rounded_gradient)
    assert gradient.norm() > 0.1


def test_adapters_are_merged_with_the_exact_weights(encoders):
    exact, from_rounded = (merged_state(encoder.backbone) for encoder in encoders)
    assert exact.keys() == from_rounded.keys()
    for name, value in exact.items():
        assert torch.equal(value, from_rounded[name]), name
    assert adapter_changed(encoders[0].backbone) == adapter_changed(encoders[1].backbone) > 0


def test_rounded_weights_take_half_the_memory(encoders):
    layers = [
        [layer for layer in encoder.modules() if isinstance(layer, kind)]
        for encoder, kind in zip(encoders, (torch.nn.Linear, RoundedLinear), strict=True)
    ]
    frozen = [layer for layer in layers[0] if not layer.weight.requires_grad]
    assert len(frozen) == len(layers[1])
    for layer, rounded_layer in zip(frozen, layers[1], strict=True):
        assert rounded_layer.weight.nbytes * 2 == layer.weight.nbytes
        assert torch.equal(exact_weight(rounded_layer), layer.weight)


@pytest.mark.parametrize(
    ("tuning", "precision", "kind", "is_rounded"),
    [
        (LoraTuning(), "bf16", "single", True),
        (LoraTuning(), "bf16", "ddp", True),
        (LoraTuning(), "fp32", "single", False),
        (LoraTuning(), "bf16", "fsdp2", False),
        (LoraTuning(dora=True), "bf16", "single", False),
        (FullTuning(), "bf16", "single", False),
    ],
)
def test_weights_are_rounded_where_nothing_else_changes(
    toy_folder, tuning, precision, kind, is_rounded
):
    backbone = str(toy_folder("bert"))
    run = BiEncoderRecipe(
        name="a",
        model=BiEncoderModel(backbone=backbone, tuning=tuning),
        data=DataSection(train="b"),
        machine=MachineSection(precision=precision, micro_batch_tokens=64, kept_tokens=0),
    )
    lora = Lora(dora=tuning.dora) if isinstance(tuning, LoraTuning) else None
    encoder = build_dense_encoder(DenseSettings(backbone=backbone, lora=lora))
    lightning_module(run, encoder, 4, Plan(kind, 1, 1, 1))
    layers = [layer for layer in encoder.modules() if isinstance(layer, RoundedLinear)]
    assert bool(layers) == is_rounded


@pytest.mark.parametrize("lora", [None, Lora(), Lora(dora=True)], ids=["full", "LoRA", "DoRA"])
def test_vectors_are_those_of_weights_that_autocast_rounds(toy_folder, lora):
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=lora)).eval()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    texts = encoder.tokenize(SENTENCES, "document")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = encoder(texts)
        with rounded_weights(encoder, torch.bfloat16):
            formats = {layer.weight.dtype for layer in linear_layers(encoder)}
            assert torch.equal(encoder(texts), expected)
    is_dora = lora is not None and lora.dora
    assert formats == {torch.float32 if is_dora else torch.bfloat16}


def linear_layers(encoder):
    return [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Linear)]


def test_threads_leave_exact_weights(encoders):
    encoder, _ = encoders
    barrier = threading.Barrier(3)

    def enter(_):
        for _ in range(20):
            barrier.wait()
            with rounded_weights(encoder, torch.bfloat16):
                pass

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(enter, range(3)))
    assert {layer.weight.dtype for layer in linear_layers(encoder)} == {torch.float32}


def test_weights_are_exact_again_after_an_error(encoders):
    encoder, _ = encoders
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match="stop"), rounded_weights(encoder, torch.bfloat16):
        raise ValueError("stop")
    assert {layer.weight.dtype for layer in linear_layers(encoder)} == {torch.float32}
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
