"""Two towers put together: how they are joined, trained, saved, and read by transformers."""

import re
import shutil

import numpy as np
import pytest
import torch
from image_toys import drawing
from toy_models import make_two_tower_parts
from transformers import AutoModel, EfficientNetConfig, EfficientNetModel

from trainer.errors import BadModel
from trainer.models.families import read_any, reads_images
from trainer.models.formats.folder import save_encoder
from trainer.models.settings import Lora
from trainer.models.towers.checkpoint import ImageTextSettings
from trainer.models.towers.two_towers import (
    TwoTowerSettings,
    build_stored_towers,
    build_two_tower_encoder,
)
from trainer.models.towers.vision import NewTower, StoredTower
from trainer.retrieval.encoding.encode import encode

CAPTIONS = ["a caption", "Delete a disk.", "Show how many queries a database answers, and list it!"]
SMALL = NewTower(image_size=16, patch_size=8, width=24, layers=1, heads=2)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A text model in `text` and vision models in `vit` and `convolutional`."""
    folder = tmp_path_factory.mktemp("parts")
    make_two_tower_parts(folder)
    torch.manual_seed(5)
    config = EfficientNetConfig(
        width_coefficient=0.0125,  # 16 channels at the end
        depth_coefficient=1.0,
        hidden_dim=16,
        kernel_sizes=[3],
        in_channels=[32],
        out_channels=[16],
        strides=[1],
        num_block_repeats=[1],
        expand_ratios=[1],
        image_size=16,
    )
    EfficientNetModel(config).save_pretrained(folder / "convolutional")
    shutil.copy(folder / "vit" / "preprocessor_config.json", folder / "convolutional")
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    drawing(5).save(path)
    return path


def joined(parts, tower=SMALL, lora=None, **settings):
    """Two towers with weights that differ from those at the start."""
    torch.manual_seed(4)
    encoder = build_two_tower_encoder(
        TwoTowerSettings(
            backbone=str(parts / "text"),
            image_tower=tower,
            projection_dimensions=8,
            lora=lora,
            **settings,
        )
    )
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return encoder


def stored(parts, name="vit", **settings):
    return StoredTower(str(parts / name), **settings)


def trained_parts(encoder):
    """The parts of the model that have trained weights, adapters apart."""
    names = [
        name.replace("base_model.model.", "").removeprefix("backbone.")
        for name, weight in encoder.named_parameters()
        if weight.requires_grad
    ]
    return {f"{name.split('.')[0]}{' LoRA' * ('lora_' in name)}" for name in names}


def vectors_of(encoder, picture):
    return encode(encoder, CAPTIONS, "query").rows, encode(encoder, [str(picture)], "document").rows


PROJECTIONS = {"visual_projection", "text_projection"}


@pytest.mark.parametrize(
    ("image", "lora", "frozen", "expected"),
    [
        ("new", False, None, {"vision_model", "text_model"}),
        ("new", True, None, {"vision_model", "text_model LoRA"}),
        ("new", False, "text", {"vision_model"}),
        ("vit", True, None, {"vision_model LoRA", "text_model LoRA"}),
        ("vit", True, "image", {"text_model LoRA"}),
        ("vit", False, "image", {"text_model"}),
        ("vit, train_all", True, None, {"vision_model", "text_model LoRA"}),
    ],
)
def test_recipe_says_which_weights_are_trained(parts, image, lora, frozen, expected):
    tower = SMALL if image == "new" else stored(parts, is_fully_trained="train_all" in image)
    encoder = joined(parts, tower, Lora(rank=2) if lora else None, frozen_tower=frozen)
    assert trained_parts(encoder) == expected | PROJECTIONS
    heads = {name for name, _ in encoder.named_parameters() if encoder.is_head(name)}
    assert any("visual_projection" in name for name in heads)
    assert any("vision_model" in name for name in heads) == (image == "new")
    assert not any("text_model" in name for name in heads)


def test_weights_of_both_models_are_kept(parts):
    encoder = joined(parts, stored(parts))
    for name, part in (("text", "text_model"), ("vit", "vision_model")):
        expected = AutoModel.from_pretrained(parts / name).state_dict()
        state = encoder.backbone.get_submodule(part).state_dict()
        assert len(state) > 10
        for key, value in state.items():
            assert torch.equal(value, expected[key]), key


def python_code(folder):
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


@pytest.mark.parametrize(
    ("image", "pooling", "lora"),
    [
        ("new", "mean", True),
        ("vit", "cls", False),
        ("vit", "last_token", False),
        ("convolutional", "weighted_mean", False),
    ],
)
def test_saved_folder_gives_the_same_vectors_here_and_by_the_code_in_its_readme(
    parts, picture, tmp_path, image, pooling, lora
):
    tower = SMALL if image == "new" else stored(parts, image)
    encoder = joined(parts, tower, Lora(rank=2) if lora else None).eval()
    encoder.contract = encoder.contract.model_copy(update={"pooling": pooling})
    captions, images = vectors_of(encoder, picture)
    folder = tmp_path / "model"
    save_encoder(encoder, folder)
    assert reads_images(str(folder))
    again = read_any(str(folder))
    assert not again.is_padded, "captions are packed"
    for ours, stored_vectors in zip((captions, images), vectors_of(again, picture), strict=True):
        np.testing.assert_allclose(stored_vectors, ours, atol=1e-5)
    code = python_code(folder).replace("path/to/this/folder", str(folder))
    code = code.replace("picture.png", str(picture)).replace('["a caption"]', str(CAPTIONS))
    theirs: dict = {}
    with torch.no_grad():
        exec(code, theirs)
    for name, ours in (("captions", captions), ("images", images)):
        vectors = torch.nn.functional.normalize(theirs[name], dim=-1).numpy()
        np.testing.assert_allclose(vectors, ours, atol=1e-5)
    assert np.abs(captions[0] - captions[1]).max() > 0.01


def test_batch_norm_does_not_depend_on_the_other_images(parts, picture):
    encoder = joined(parts, stored(parts, "convolutional")).train()
    batch = encoder.tokenize([str(picture), str(picture)], "document")
    batch.pixels[1] //= 2
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch)[:1], encoder(batch.select(torch.tensor([0]))))
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert encoder.backbone.training
    assert not any(norm.training for norm in norms)


def test_training_goes_on_from_a_saved_folder(parts, picture, tmp_path):
    save_encoder(joined(parts).eval(), tmp_path / "model")
    settings = ImageTextSettings(backbone=str(tmp_path / "model"), lora=Lora(rank=2))
    encoder = build_stored_towers(settings)
    assert {"vision_model LoRA", "text_model LoRA"} <= trained_parts(encoder)
    for ours, expected in zip(
        vectors_of(encoder.eval(), picture),
        vectors_of(read_any(str(tmp_path / "model")), picture),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    frozen = build_stored_towers(
        ImageTextSettings(backbone=str(tmp_path / "model"), lora=None, frozen_tower="image")
    )
    assert trained_parts(frozen) == {"text_model", "text_projection"}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("text", "bert is not a model of images alone"),
        ("clip", "clip is not a model of images alone"),
        ("no pooler", r"2 weights are missing.*saved with its pooler"),
        ("other size", "does not take images of 24 pixels"),
        ("no settings", "has no preprocessor_config.json"),
    ],
)
def test_unusable_image_tower_is_refused(parts, checkpoints, tmp_path, image, message):
    folder = tmp_path / "tower"
    if image in ("text", "clip"):
        folder = parts / "text" if image == "text" else checkpoints / "clip"
    else:
        shutil.copytree(parts / "vit", folder)
        settings = folder / "preprocessor_config.json"
        if image == "no pooler":
            AutoModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(folder)
        elif image == "other size":
            settings.write_text(settings.read_text().replace("16", "24"))
        else:
            settings.unlink()
    with pytest.raises(BadModel, match=message):
        joined(parts, StoredTower(str(folder)))
