"""Packed texts give the vectors and gradients of padded ones, or the backbone is not packed."""

import pytest
import torch
from toy_models import FAMILIES, SENTENCES
from twins import alike, value_and_gradient

from trainer.kernels import attention
from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.late_interaction import (
    LateInteractionSettings,
    build_late_interaction_encoder,
)
from trainer.models.parts.depth import AtDepths
from trainer.models.parts.packed import packed_position, use_packing
from trainer.models.settings import Lora

PACKED = tuple(family for family in FAMILIES if family != "mpnet")
TEXTS = (*SENTENCES, "a", "Delete a disk.", "one two three")


def both_forms(encoder, encode, texts):
    """Value and gradient with packed and with padded texts."""
    forms = []
    for is_padded in (False, True):
        if is_padded:
            encoder.backbone.packed_position = None
        assert encoder.is_padded == is_padded
        result = encode(texts)
        weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
        parameters = [value for value in encoder.parameters() if value.requires_grad]
        forms.append(value_and_gradient((result * weights).sum(), parameters))
    return forms


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_pack(toy_folder, family):
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder(family)), lora=None))
    assert encoder.is_padded == (family not in PACKED)


@pytest.mark.parametrize("tuning", ["full", "lora", "recomputed layers"])
@pytest.mark.parametrize("family", PACKED)
def test_dense_encoders_give_the_same(toy_folder, family, tuning):
    encoder = build_dense_encoder(
        DenseSettings(
            backbone=str(toy_folder(family)),
            lora=Lora() if tuning == "lora" else None,
            activation_checkpointing=tuning == "recomputed layers",
        )
    ).double()
    texts = encoder.tokenize(TEXTS, "query")
    assert alike(*both_forms(encoder, encoder, texts), 1e-9)


@pytest.mark.parametrize("attend_to_expansion", [True, False])
@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_late_interaction_encoders_give_the_same(toy_folder, family, role, attend_to_expansion):
    encoder = build_late_interaction_encoder(
        LateInteractionSettings(
            backbone=str(toy_folder(family)),
            lora=None,
            attend_to_expansion=attend_to_expansion,
            query_expansion=True,
        )
    ).double()
    texts = encoder.tokenize(TEXTS, role)
    assert (encoder.key_counts(texts) is None) == (role == "document" or attend_to_expansion)
    assert alike(*both_forms(encoder, encoder, texts), 1e-9)


@pytest.mark.parametrize("family", PACKED)
def test_cross_encoders_give_the_same(toy_folder, family):
    torch.manual_seed(0)
    encoder = build_cross_encoder(
        CrossEncoderSettings(backbone=str(toy_folder(family)), lora=None)
    ).double()
    texts = encoder.tokenize_pairs(TEXTS, [*TEXTS[2:], *TEXTS[:2]])
    assert alike(*both_forms(encoder, encoder, texts), 1e-9)


@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3"])
def test_depths_give_the_same(toy_folder, family):
    encoder = build_dense_encoder(
        DenseSettings(backbone=str(toy_folder(family)), lora=None)
    ).double()
    texts = encoder.tokenize(TEXTS, "document")
    assert alike(*both_forms(encoder, AtDepths(encoder, [1, 2]), texts), 1e-9)


def test_backbone_that_ignores_the_packing_is_padded(toy_folder, monkeypatch):
    """Attention to all texts of the micro-batch gives other vectors."""
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))
    assert packed_position(encoder.backbone) == 0
    monkeypatch.setattr(
        attention,
        "packed_attention",
        lambda query, key, value, *_: torch.nn.functional.scaled_dot_product_attention(
            query, key, value
        ).transpose(0, 1),
    )
    assert not use_packing(encoder.backbone)
    assert encoder.is_padded


def test_backbone_with_wrong_positions_is_padded(toy_folder, monkeypatch):
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))
    embeddings = encoder.backbone.embeddings
    original = embeddings.forward

    def without_positions(*args, **settings):
        return original(*args, **settings | {"position_ids": None})

    monkeypatch.setattr(embeddings, "forward", without_positions)
    assert not use_packing(encoder.backbone)
    assert encoder.is_padded


def test_trial_of_packing_restores_the_mode(toy_folder):
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))
    encoder.train()
    assert use_packing(encoder.backbone)
    assert all(module.training for module in encoder.backbone.modules())
