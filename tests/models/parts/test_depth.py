"""The first layers of a model are the model cut by hand, in every architecture: trained in one
pass, saved, and loaded by others.
"""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from encoded import encode
from sentence_transformers import SentenceTransformer
from toy_models import FAMILIES, SENTENCES, toy_folders

from trainer.cli.cut import cut
from trainer.errors import BadFolder, BadModel, BadRecipe
from trainer.models.cut import first_layers, read_cut
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.formats import folder
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import LateInteractionSettings, build_late_interaction_encoder
from trainer.models.parts.depth import AtDepths, depth_of
from trainer.models.settings import Lora
from trainer.models.static_student import StaticSettings, build_static_encoder

DEPTHS = (4, 1, 3)


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory):
    return toy_folders(tmp_path_factory, layers=4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "lora"])
def test_depths_computed_at_once_equal_the_cut_models(family, lora, deep_folder):
    encoder = build_dense_encoder(DenseSettings(backbone=str(deep_folder(family)), lora=lora))
    texts = encoder.tokenize(SENTENCES, "document")
    together = AtDepths(encoder, DEPTHS)(texts).chunk(3, -1)
    for depth, found in zip(DEPTHS, together, strict=True):
        cut = first_layers(read_encoder(str(deep_folder(family))), depth)
        assert torch.allclose(found, cut(texts), atol=1e-5), depth
    assert (together[0] - together[2]).abs().max() > 1e-2, "depths differ"


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_model_is_saved_as_an_ordinary_one(family, deep_folder, tmp_path):
    whole = build_dense_encoder(DenseSettings(backbone=str(deep_folder(family)), lora=None)).eval()
    with torch.no_grad():
        wanted = AtDepths(whole, (2,))(whole.tokenize(SENTENCES, "document")).numpy()
    save_encoder(first_layers(read_encoder(str(deep_folder(family))), 2), tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert theirs[0].auto_model.config.num_hidden_layers == 2
    assert np.abs(theirs.encode(list(SENTENCES)) - wanted).max() < 1e-5
    assert (
        np.abs(encode(read_encoder(str(tmp_path / "model")), SENTENCES, "document") - wanted).max()
        < 1e-5
    )


@pytest.mark.parametrize(
    "model",
    [{}, {"projection_dimensions": 20}, "static"],
    ids=["no projection", "projection", "static"],
)
def test_narrow_model_is_saved_as_an_ordinary_one(model, deep_folder, tmp_path):
    backbone, layers = str(deep_folder("bert")), None if model == "static" else 3
    encoder = (
        build_static_encoder(StaticSettings(backbone=backbone, dimensions=24))
        if model == "static"
        else build_dense_encoder(DenseSettings(backbone=backbone, lora=None, **model))
    )
    save_encoder(encoder, tmp_path / "model")
    wide = read_cut(str(tmp_path / "model"), layers, None)
    wanted = encode(wide, SENTENCES, "document")[:, :10]
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    cut(str(tmp_path / "model"), tmp_path / "small", layers, 10)
    theirs = SentenceTransformer(str(tmp_path / "small"), device="cpu").encode(list(SENTENCES))
    assert theirs.shape == wanted.shape
    assert np.abs(theirs - wanted).max() < 1e-5
    small = read_encoder(str(tmp_path / "small"))
    assert np.abs(encode(small, SENTENCES, "document") - wanted).max() < 1e-5
    if layers:
        assert depth_of(small) == layers
    assert sum(each.numel() for each in small.parameters()) < sum(
        each.numel() for each in read_encoder(str(tmp_path / "model")).parameters()
    )


def test_cut_without_effect_and_cut_over_existing_files_are_refused(deep_folder, tmp_path):
    with pytest.raises(BadRecipe, match="nothing is to be cut"):
        cut(str(deep_folder("bert")), tmp_path / "small")
    with pytest.raises(BadFolder, match="exists already"):
        cut(str(deep_folder("bert")), tmp_path, 2)
    settings = StaticSettings(backbone=str(deep_folder("bert")), dimensions=8)
    with pytest.raises(BadModel, match="token vectors without layers"):
        depth_of(build_static_encoder(settings))


@pytest.fixture
def former(deep_folder, tmp_path):
    """A model that was cut before: narrow, of three layers."""
    cut(str(deep_folder("bert")), tmp_path / "small", 3, 10)
    return tmp_path / "small"


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_former_model_is_replaced_on_request(family, deep_folder, former, tmp_path):
    with pytest.raises(BadFolder, match="exists already.*--replace"):
        cut(str(deep_folder(family)), former, 1)
    assert depth_of(read_encoder(str(former))) == 3
    for depth in (1, 2):  # of another family, then of its own
        cut(str(deep_folder(family)), former, depth, replace=True)
        new = read_encoder(str(former))
        assert (depth_of(new), new.dimensions) == (depth, 32)
        assert [path.name for path in tmp_path.iterdir()] == ["small"], (
            "nothing is left of the old one"
        )


def test_empty_and_missing_folders_are_accepted(deep_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        cut(str(deep_folder("bert")), tmp_path / name, 1, replace=True)
        assert depth_of(read_encoder(str(tmp_path / name))) == 1


@pytest.mark.parametrize("kind", ["adapter", "late", "static"])
def test_former_model_of_any_family_is_replaced(kind, deep_folder, tmp_path):
    backbone = str(deep_folder("bert"))
    match kind:
        case "adapter":
            saved = build_dense_encoder(
                DenseSettings(backbone=backbone, projection_dimensions=8, lora=Lora(rank=2))
            )
        case "late":
            saved = build_late_interaction_encoder(
                LateInteractionSettings(backbone=backbone, projection_dimensions=8, lora=None)
            )
        case _:
            saved = build_static_encoder(StaticSettings(backbone=backbone, dimensions=8))
    save_encoder(saved, tmp_path / "small")
    cut(backbone, tmp_path / "small", 1, replace=True)
    assert depth_of(read_encoder(str(tmp_path / "small"))) == 1


def test_foreign_model_is_not_replaced(deep_folder, former, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with_thesis, inside, linked, half, damaged = (
        tmp_path / name for name in ("with-thesis", "inside", "linked", "half", "damaged")
    )
    for copy in (with_thesis, inside, linked, half, damaged):
        shutil.copytree(former, copy)
    (with_thesis / "thesis.txt").write_text("mine")
    (inside / "1_Pooling" / "thesis.txt").write_text("mine")
    (linked / "README.md").unlink()
    (linked / "README.md").symlink_to(mine / "thesis.txt")
    (half / "model.safetensors").unlink()
    (damaged / "nearfar.json").write_text("{")
    (tmp_path / "link").symlink_to(former)
    (tmp_path / "file").write_text("mine")
    plain = tmp_path / "plain"
    shutil.copytree(deep_folder("bert"), plain)
    before = files_of(tmp_path)
    for place, message in {
        mine: "holds 'thesis.txt'",
        with_thesis: "holds 'thesis.txt'",
        inside: "holds '1_Pooling/thesis.txt'",
        linked: "holds 'README.md'",
        half: ("not the whole folder"),
        damaged: ("not the whole folder"),
        plain: ("not the whole folder"),
        tmp_path / "link": ("a file or a link"),
        tmp_path / "file": "a file or a link",
    }.items():
        with pytest.raises(BadFolder, match=message) as refused:
            cut(str(deep_folder("bert")), place, 1, replace=True)
        assert refused.value.exit_code == 2
    assert files_of(tmp_path) == before


def test_model_is_not_replaced_by_its_own_cut(former):
    before = files_of(former)
    with pytest.raises(BadFolder, match="holds the model that is to be cut"):
        cut(str(former), former, 1, replace=True)
    assert files_of(former) == before


def test_former_model_survives_a_failed_or_killed_cut(deep_folder, former):
    before = files_of(former)
    with pytest.raises(BadModel, match="5 layers were requested"):
        cut(str(deep_folder("bert")), former, 5, replace=True)
    killed = (
        "import os, sys, pathlib; from trainer.storage import atomic; from trainer.cli.cut import"
        " cut; atomic.move_into_place = lambda *_: os._exit(9); cut(sys.argv[1],"
        " pathlib.Path(sys.argv[2]), 1, replace=True)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", killed, str(deep_folder("bert")), str(former)], timeout=120
        ).returncode
        == 9
    )
    assert files_of(former) == before


def test_folder_that_appears_during_the_cut_is_not_replaced(deep_folder, tmp_path, monkeypatch):
    plain = folder._write

    def write(encoder, unfinished):
        plain(encoder, unfinished)
        (tmp_path / "small").mkdir()
        (tmp_path / "small" / "thesis.txt").write_text("mine")

    monkeypatch.setattr(folder, "_write", write)
    with pytest.raises(BadFolder, match="exists already"):
        cut(str(deep_folder("bert")), tmp_path / "small", 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["small", "thesis.txt"]


def test_layers_of_a_cut_model_keep_their_numbers(deep_folder, tmp_path):
    save_encoder(
        build_dense_encoder(
            DenseSettings(backbone=str(deep_folder("bert")), layers=(0, 2, 3), lora=None)
        ),
        tmp_path / "model",
    )
    assert first_layers(read_encoder(str(tmp_path / "model")), 2).contract.layers == (0, 2)


@pytest.mark.parametrize("role", ["query", "document"])
def test_token_vectors_of_cut_models_equal_those_of_depths(role, deep_folder):
    encoder = build_late_interaction_encoder(
        LateInteractionSettings(
            backbone=str(deep_folder("bert")), projection_dimensions=8, lora=None
        )
    )
    texts = encoder.tokenize(SENTENCES, role)
    whole, shallow = AtDepths(encoder, (4, 2))(texts).chunk(2, -1)
    assert torch.allclose(whole, encoder(texts), atol=1e-6)
    assert torch.allclose(shallow, first_layers(encoder, 2)(texts), atol=1e-6)
    assert (whole - shallow).abs().max() > 1e-2


def test_activation_checkpointing_changes_no_gradient(deep_folder):
    gradients = []
    for checkpointing in (False, True):
        model = DenseSettings(
            backbone=str(deep_folder("modernbert")),
            lora=None,
            activation_checkpointing=checkpointing,
        )
        encoder = build_dense_encoder(model)
        AtDepths(encoder, DEPTHS)(encoder.tokenize(SENTENCES, "query"))[:, ::7].sum().backward()
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in encoder.parameters()])
        )
    assert gradients[0].norm() > 0
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_architecture_with_modules_after_its_layers_is_refused(deep_folder):
    encoder = build_dense_encoder(DenseSettings(backbone=str(deep_folder("bert")), lora=None))
    encoder.backbone.encoder.register_forward_hook(
        lambda _, given, made: made.__class__(last_hidden_state=2 * made.last_hidden_state)
    )
    with pytest.raises(BadModel, match="does more behind its last layer"):
        AtDepths(encoder, (4, 2))


def test_more_layers_than_exist_are_refused(deep_folder):
    encoder = read_encoder(str(deep_folder("bert")))
    assert depth_of(encoder) == 4
    with pytest.raises(BadModel, match="5 layers were requested, but the model has 4"):
        first_layers(encoder, 5)
