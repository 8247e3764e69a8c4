"""CLIP and SigLIP checkpoints: the vectors are those of transformers, before and after training."""

import json
import shutil

import numpy as np
import pytest
import torch
from image_toys import caption, drawing
from sentence_transformers import SentenceTransformer
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from trainer.errors import BadModel
from trainer.models.families import read_any, read_model
from trainer.models.formats.folder import save_encoder
from trainer.models.settings import Lora
from trainer.models.towers.checkpoint import ImageTextSettings
from trainer.models.towers.image_text import build_image_text_encoder, read_image_text_encoder
from trainer.retrieval.encoding.encode import encode

CAPTIONS = [caption(0), "one disk", caption(3) + ", and a much longer text about it" * 3, ""]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        drawing(number).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(3)]


def encoder_with_changed_adapter(folder, **settings):
    torch.manual_seed(3)
    lora = Lora(rank=4)
    encoder = build_image_text_encoder(
        ImageTextSettings(backbone=str(folder), lora=lora, **settings)
    )
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return encoder.eval()


def vectors_of(encoder, pictures):
    return encode(encoder, CAPTIONS, "query").rows, encode(encoder, pictures, "document").rows


@torch.no_grad()
def vectors_of_transformers(folder, kind, pictures):
    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    padding = True if kind == "clip" else "max_length"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(
        CAPTIONS, padding=padding, truncation=True, max_length=24, return_tensors="pt"
    )
    if kind == "siglip":  # trained without a mask
        tokens = {"input_ids": tokens["input_ids"]}
    else:
        tokens.pop("token_type_ids", None)
    images = processor([drawing(number) for number in range(3)], return_tensors="pt")
    outputs = model.get_text_features(**tokens), model.get_image_features(**images)
    assert len(pictures) == 3
    return [
        torch.nn.functional.normalize(output.pooler_output, dim=-1).numpy() for output in outputs
    ]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
class TestCheckpoint:
    def test_vectors_are_those_of_transformers(self, checkpoints, pictures, kind):
        vectors = vectors_of(read_image_text_encoder(str(checkpoints / kind)), pictures)
        expected = vectors_of_transformers(checkpoints / kind, kind, pictures)
        for ours, theirs in zip(vectors, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
            assert np.abs(ours[0] - ours[1]).max() > 0.01, "inputs have different vectors"

    def test_saved_folder_has_the_learned_scale(self, checkpoints, kind, tmp_path):
        encoder = encoder_with_changed_adapter(checkpoints / kind)
        encoder.keep_scale(torch.tensor([2.5]), torch.tensor([-7.0]))
        save_encoder(encoder, tmp_path / "model")
        model = AutoModel.from_pretrained(tmp_path / "model")
        assert model.logit_scale.item() == 2.5
        if kind == "siglip":
            assert model.logit_bias.item() == -7

    def test_saved_folder_has_the_vectors_of_the_trained_model(
        self, checkpoints, pictures, kind, tmp_path
    ):
        encoder = encoder_with_changed_adapter(checkpoints / kind)
        before = vectors_of(read_image_text_encoder(str(checkpoints / kind)), pictures)
        trained = vectors_of(encoder, pictures)
        save_encoder(encoder, tmp_path / "model")
        again = vectors_of(read_any(str(tmp_path / "model")), pictures)
        theirs = vectors_of_transformers(tmp_path / "model", kind, pictures)
        for place in range(2):
            assert np.abs(trained[place] - before[place]).max() > 0.01
            np.testing.assert_allclose(again[place], trained[place], atol=1e-5)
            np.testing.assert_allclose(theirs[place], trained[place], atol=1e-5)

    @pytest.mark.parametrize("tower", ["image", "text"])
    def test_frozen_tower_keeps_its_vectors(self, checkpoints, pictures, kind, tower):
        before = vectors_of(read_image_text_encoder(str(checkpoints / kind)), pictures)
        after = vectors_of(
            encoder_with_changed_adapter(checkpoints / kind, frozen_tower=tower), pictures
        )
        changes = [np.abs(new - old).max() for new, old in zip(after, before, strict=True)]
        frozen, trained = (1, 0) if tower == "image" else (0, 1)
        assert changes[frozen] < 1e-6
        assert changes[trained] > 0.01
        encoder = build_image_text_encoder(
            ImageTextSettings(backbone=str(checkpoints / kind), lora=None, frozen_tower=tower)
        )
        parts = {
            name.split(".")[1]
            for name, weight in encoder.named_parameters()
            if weight.requires_grad
        }
        other = {"image": ("text_model", "text_projection"), "text": ("vision_model",)}[tower]
        assert parts <= {*other, "visual_projection"}
        assert parts


def test_sentence_transformers_reads_the_folder(checkpoints, pictures, tmp_path):
    encoder = encoder_with_changed_adapter(checkpoints / "clip")
    save_encoder(encoder, tmp_path / "model")
    library = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    captions, images = vectors_of(encoder, pictures)
    for inputs, ours in (
        (CAPTIONS[:3], captions[:3]),
        ([drawing(number) for number in range(3)], images),
    ):
        theirs = library.encode(inputs, normalize_embeddings=True)
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_image_settings_of_the_checkpoint_are_kept(checkpoints, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(checkpoints / "clip", folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings |= {"image_mean": [0.1, 0.2, 0.3], "size": {"shortest_edge": 19}, "resample": 2}
    path.write_text(json.dumps(settings))
    encoder = read_image_text_encoder(str(folder))
    save_encoder(encoder, tmp_path / "model")
    contract = read_image_text_encoder(str(tmp_path / "model")).contract
    assert contract == encoder.contract
    assert contract.image_mean == (0.1, 0.2, 0.3)
    assert (contract.resize_to, contract.image_size, contract.resample) == (19, 16, 2)
    assert contract.document_max_length_tokens == 5, "four patches and the class token"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "has no preprocessor_config.json"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"include_top": True}, "include_top is True"),
        ({"crop_size": {"height": 12, "width": 12}}, "images of 16 pixels.* makes 12"),
        ({"image_mean": [0.5]}, "cannot be read"),
        ({"size": {"height": 1, "width": 2}}, "no square"),
    ],
)
def test_unusable_image_settings_are_refused(checkpoints, tmp_path, change, message):
    folder = tmp_path / "clip"
    shutil.copytree(checkpoints / "clip", folder)
    path = folder / "preprocessor_config.json"
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadModel, match=message):
        read_image_text_encoder(str(folder))


def test_model_of_images_is_refused_where_texts_are_documents(checkpoints):
    with pytest.raises(
        BadModel,
        match=r"compares captions with images.*`evaluate`, `index` and `search` work with images",
    ):
        read_model(str(checkpoints / "clip"))


def test_model_of_texts_is_no_checkpoint_of_images(toy_folder):
    with pytest.raises(BadModel, match="is no CLIP or Siglip checkpoint"):
        build_image_text_encoder(ImageTextSettings(backbone=str(toy_folder("bert"))))
