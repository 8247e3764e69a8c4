"""A student of fewer layers is the model with the others taken out, in every architecture, also
when others load it.
"""

import numpy as np
import pytest
import torch
from encoded import encode
from sentence_transformers import SentenceTransformer
from toy_models import FAMILIES, SENTENCES, toy_folders
from transformers import AutoModel

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import (
    LateInteractionSettings,
    build_late_interaction_encoder,
    read_late_encoder,
)
from trainer.models.parts.kept_layers import kept_layers
from trainer.models.settings import Lora


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory):
    """Family to a model of five layers."""
    return toy_folders(tmp_path_factory, layers=5)


def pruned(folder, layers):
    """The whole model, its list of layers cut by hand; kinds of attention follow their layers."""
    model = AutoModel.from_pretrained(folder).eval()
    parent, name = next(
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == 5
    )
    setattr(parent, name, torch.nn.ModuleList([getattr(parent, name)[layer] for layer in layers]))
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[layer] for layer in layers]
    model.config.num_hidden_layers = len(layers)
    for place, layer in enumerate(getattr(parent, name)):
        if hasattr(layer, "self_attn"):
            layer.self_attn.layer_idx = place
    return model


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_model_with_fewer_layers_loads_in_other_libraries(self, family, deep_folder, tmp_path):
        layers = (0, 3)
        encoder = build_dense_encoder(
            DenseSettings(backbone=str(deep_folder(family)), layers=layers, lora=None)
        ).eval()
        save_encoder(encoder, tmp_path / "model")
        vectors = encode(encoder, SENTENCES, "document")
        reference = build_dense_encoder(DenseSettings(backbone=str(deep_folder(family)), lora=None))
        assert np.abs(encode(reference, SENTENCES, "document") - vectors).max() > 1e-3, (
            "the whole model is another"
        )
        reference.backbone = pruned(deep_folder(family), layers)
        assert np.abs(encode(reference, SENTENCES, "document") - vectors).max() < 1e-5
        theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
        assert theirs[0].auto_model.config.num_hidden_layers == 2
        assert np.abs(theirs.encode(list(SENTENCES)) - vectors).max() < 1e-5
        ours = read_encoder(str(tmp_path / "model"))
        assert ours.contract.layers == layers
        assert np.abs(encode(ours, SENTENCES, "document") - vectors).max() < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_model_without_its_first_layer_is_right_or_refused(family, deep_folder):
    """ModernBERT's first layer has no norm before its attention: that of another was dropped in
    silence.
    """
    model = DenseSettings(backbone=str(deep_folder(family)), layers=(1, 3), lora=None)
    if family == "modernbert":
        with pytest.raises(
            BadModel,
            match=(
                r"layers=\[1, 3\]: .* has no weight attn_norm.weight as layer 1; keep layer"
                r" 0 too"
            ),
        ):
            build_dense_encoder(model)
        return
    reference = build_dense_encoder(DenseSettings(backbone=str(deep_folder(family)), lora=None))
    reference.backbone = pruned(deep_folder(family), (1, 3))
    assert (
        np.abs(
            encode(build_dense_encoder(model).eval(), SENTENCES, "document")
            - encode(reference, SENTENCES, "document")
        ).max()
        < 1e-5
    )


def test_adapter_stores_its_layers(deep_folder, tmp_path, monkeypatch):
    """Else it would be put on the first layers of the whole model, in silence."""
    from trainer.models import loading

    encoder = build_dense_encoder(
        DenseSettings(backbone=str(deep_folder("bert")), layers=(1, 4), lora=Lora(rank=2))
    )
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_encoder(encoder.eval(), tmp_path / "model")
    monkeypatch.setattr(loading, "locate_public", lambda name: deep_folder("bert"))
    again = read_encoder(str(tmp_path / "model" / "adapter"))
    assert (
        np.abs(encode(again, SENTENCES, "query") - encode(encoder, SENTENCES, "query")).max() < 1e-5
    )


def test_late_interaction_model_with_fewer_layers_is_right(deep_folder, tmp_path):
    encoder = build_late_interaction_encoder(
        LateInteractionSettings(
            backbone=str(deep_folder("bert")),
            layers=2,
            projection_dimensions=8,
            lora=None,
        )
    ).eval()
    assert encoder.contract.layers == (0, 4)
    save_encoder(encoder, tmp_path / "model")
    again = read_late_encoder(str(tmp_path / "model"))
    texts = encoder.tokenize(SENTENCES, "document")
    with torch.no_grad():
        assert (encoder(texts) - again(texts)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("wish", "kept"),
    [(1, (0,)), (2, (0, 11)), (4, (0, 4, 7, 11)), (6, (0, 2, 4, 7, 9, 11)), (12, tuple(range(12)))],
)
def test_layers_are_evenly_spaced(wish, kept):
    assert kept_layers(wish, 12) == kept


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (13, "has 12 layers"),
        ([0, 12], "names layer 12"),
        ([3, 1], "in ascending order"),
        ([1, 1], "each once"),
        ([], "at least one"),
    ],
)
def test_missing_layers_are_refused(wish, said):
    with pytest.raises(BadModel, match=said):
        kept_layers(wish, 12)
