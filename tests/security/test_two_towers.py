"""Folders of two towers, and of a tower alone, that attack."""

import json
import pickle

import pytest
import torch
from peak_memory import peak_memory
from toy_models import make_two_tower_parts

from trainer.errors import BadModel
from trainer.models.families import read_any
from trainer.models.formats.folder import save_encoder
from trainer.models.towers.two_towers import TwoTowerSettings, build_two_tower_encoder
from trainer.models.towers.vision import NewTower, StoredTower


@pytest.fixture
def victim(tmp_path):
    """A folder of two towers in `model`, to be spoiled, and its parts beside it."""
    make_two_tower_parts(tmp_path)
    tower = NewTower(image_size=16, patch_size=8, width=24, layers=1, heads=2)
    text = str(tmp_path / "text")
    encoder = build_two_tower_encoder(TwoTowerSettings(backbone=text, image_tower=tower, lora=None))
    save_encoder(encoder.eval(), tmp_path / "model")
    return tmp_path / "model"


def change(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def build(folder):
    """Builds two towers from the parts in a folder."""
    tower = StoredTower(str(folder / "vit"))
    return build_two_tower_encoder(
        TwoTowerSettings(backbone=str(folder / "text"), image_tower=tower, lora=None)
    )


@pytest.mark.parametrize(
    "part_of_config",
    [
        {"num_hidden_layers": 10**7},
        {"num_hidden_layers": 900},
        {"num_hidden_layers": -1},
        {"hidden_size": 2**20},
        {"patch_size": 0},
        {"image_size": 2**30},
        {"num_channels": 2**40},
        {"model_type": "no such type"},
        {"model_type": 7},
        {"hidden_act": "os.system"},
        {"hidden_size": "32"},
    ],
    ids=str,
)
def test_impossible_image_tower_is_refused_before_it_takes_memory(victim, part_of_config):
    path = victim / "config.json"
    config = json.loads(path.read_text())
    change(path, vision_config=config["vision_config"] | part_of_config)
    with peak_memory() as peak, pytest.raises(BadModel):
        read_any(str(victim))
    assert peak.bytes < 200 * 2**20


@pytest.mark.parametrize("value", [None, [], "vit", 7, {}], ids=str)
@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_part_that_is_no_configuration_is_refused(victim, part, value):
    change(victim / "config.json", **{part: value})
    with pytest.raises(BadModel):
        read_any(str(victim))


def test_code_in_a_part_is_not_loaded(victim):
    (victim / "evil.py").write_text("raise SystemExit('code of the folder ran')")
    config = json.loads((victim / "config.json").read_text())
    evil = {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}}
    parts = {part: config[part] | evil for part in ("vision_config", "text_config")}
    before = read_any(str(victim))
    change(victim / "config.json", **evil, **parts)
    images = before.sample_documents(1, 1)
    assert torch.equal(read_any(str(victim))(images), before(images))


@pytest.mark.parametrize(
    "keys",
    [{"pooling": "os.system"}, {"pooling": ["mean"]}, {"image_backbone": 7}, {"dimensions": 9}],
    ids=str,
)
def test_contradicting_contract_is_refused(victim, keys):
    change(victim / "nearfar.json", **keys)
    with pytest.raises(BadModel, match=r"nearfar\.json"):
        read_any(str(victim))


def test_image_tower_with_pickled_weights_is_not_opened(victim):
    folder = victim.parent
    (folder / "vit" / "model.safetensors").unlink()
    (folder / "vit" / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(BadModel, match="a format that can run code"):
        build(folder)


def test_image_tower_that_leads_out_of_its_folder_is_refused(victim):
    folder = victim.parent
    (folder / "vit" / "model.safetensors").rename(folder / "outside")
    (folder / "vit" / "model.safetensors").symlink_to(folder / "outside")
    with pytest.raises(BadModel, match="is a link that leads out of"):
        build(folder)
