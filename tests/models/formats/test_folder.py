"""Saving is all or nothing, and a folder that contradicts itself is refused."""

import json
import os
import stat

import pytest
import torch
from toy_models import SENTENCES

from trainer.errors import BadFolder, BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.formats.folder import save_encoder
from trainer.models.settings import Lora


@pytest.fixture
def encoder(toy_folder):
    return build_dense_encoder(
        DenseSettings(backbone=str(toy_folder("bert")), query_prompt="List ", lora=Lora(rank=2))
    )


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_existing_folder_is_not_overwritten(encoder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("x")
    with pytest.raises(BadFolder, match="exists already"):
        save_encoder(encoder, tmp_path / "model")
    with pytest.raises(BadFolder, match="holds 'precious', which is not of a model"):
        save_encoder(encoder, tmp_path / "model", replace=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "precious"]


def test_failed_save_leaves_no_files_and_changes_none(encoder, tmp_path):
    save_encoder(encoder, tmp_path / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file()}
    encoder.contract = encoder.contract.model_copy(
        update={"tokenizer_fingerprint": "0"}
    )  # found out last, when all is written
    with pytest.raises(BadModel, match="does not come back from its own files"):
        save_encoder(encoder, tmp_path / "model", replace=True)
    with pytest.raises(BadModel, match="does not come back from its own files"):
        save_encoder(encoder, tmp_path / "new" / "model")
    assert {
        path: path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file()
    } == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_files_of_a_model_have_the_mode_of_the_umask(encoder, tmp_path):
    former = os.umask(0o022)
    try:
        save_encoder(encoder, tmp_path / "model")
    finally:
        os.umask(former)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "model").rglob("*")
        if path.is_file()
    }
    assert {"model/model.safetensors", "model/adapter/adapter_model.safetensors"} <= modes.keys()
    assert set(modes.values()) == {0o644}, modes


def test_final_name_appears_when_every_byte_is_on_disk(encoder, tmp_path, monkeypatch):
    synced = []
    original = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append((tmp_path / "model").exists()) or original(handle)
    )
    save_encoder(encoder, tmp_path / "model")
    assert len(synced) > 10
    assert synced.index(True) == len(synced) - 1, (
        "only the parent's own entry is synced after the rename"
    )


def test_saved_files_name_no_local_folder_and_no_training_setting(encoder, toy_folder, tmp_path):
    save_encoder(encoder, tmp_path / "model")
    where = str(toy_folder("bert").parent).encode()
    for path in (path for path in (tmp_path / "model").rglob("*") if path.is_file()):
        assert where not in path.read_bytes(), path
        assert str(tmp_path).encode() not in path.read_bytes(), path
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["hidden_dropout_prob"] == 0.1, (
        "the backbone's own dropout, not that of the recipe"
    )
    assert "nearfar" not in (tmp_path / "model" / "config.json").read_text()


def test_prompt_cannot_break_out_of_the_model_card(toy_folder, tmp_path):
    evil = "```\n<script>alert(1)</script> [x](javascript:1)\n---\n"
    save_encoder(
        build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), query_prompt=evil)),
        tmp_path / "model",
    )
    card = (tmp_path / "model" / "README.md").read_text()
    assert "<script" not in card
    assert card.count("```") == 8, "the fences of our four blocks"
    assert read_encoder(str(tmp_path / "model")).contract.query_prompt == evil


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 2}, "has version 2, but this nearfar reads version 1"),
        ({"pooling": "max"}, "`pooling`"),
        ({"surprise": 1}, "`surprise`"),
        ({"normalize": "yes"}, "`normalize`"),
        ({"pooling": "cls"}, "says pooling = cls, the pipeline mean"),
        ({"normalize": False}, "says normalize = False, the pipeline True"),
        ({"include_prompt": False}, "says include_prompt = False, the pipeline True"),
        ({"dimensions": 31}, "says dimensions = 31, its files say 32"),
    ],
)
def test_contract_that_contradicts_the_folder_is_refused(encoder, tmp_path, values, message):
    save_encoder(encoder, tmp_path / "model")
    change(tmp_path / "model" / "nearfar.json", **values)
    with pytest.raises(BadModel, match=message):
        read_encoder(str(tmp_path / "model"))


def test_settings_take_precedence_over_the_folder(encoder, tmp_path):
    save_encoder(encoder, tmp_path / "model")
    model = DenseSettings(
        backbone=str(tmp_path / "model"),
        pooling="cls",
        normalize=False,
        query_prompt="",
        document_prompt="Show ",
        document_max_length_tokens=9,
        projection_dimensions=8,
        lora=None,
    )
    contract = build_dense_encoder(model).contract
    assert (
        contract.pooling,
        contract.normalize,
        contract.query_prompt,
        contract.document_prompt,
    ) == ("cls", False, "", "Show ")
    assert (
        contract.document_max_length_tokens,
        contract.query_max_length_tokens,
        contract.dimensions,
    ) == (9, 64, 8)
    kept = build_dense_encoder(DenseSettings(backbone=str(tmp_path / "model"))).contract
    assert (kept.pooling, kept.query_prompt) == ("mean", "List ")


def test_vectors_are_float32_under_autocast_and_when_not_normalised(toy_folder):
    for normalize in (True, False):
        encoder = build_dense_encoder(
            DenseSettings(
                backbone=str(toy_folder("bert")), normalize=normalize, projection_dimensions=8
            )
        )
        texts = encoder.tokenize(SENTENCES, "query")
        with torch.autocast("cpu", torch.bfloat16):
            assert encoder(texts).dtype == torch.float32


def test_missing_target_modules_are_named(toy_folder):
    with pytest.raises(
        BadModel, match=r"has no layer 'q_proj'; its linear layers end in dense, key, query, value"
    ):
        build_dense_encoder(
            DenseSettings(backbone=str(toy_folder("bert")), lora=Lora(target_modules=("q_proj",)))
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_four_bit_weights_without_a_gpu_are_refused(toy_folder):
    with pytest.raises(BadModel, match="`model.tuning.quantize_4bit` needs an NVIDIA GPU"):
        build_dense_encoder(
            DenseSettings(backbone=str(toy_folder("bert")), lora=Lora(quantize_4bit=True))
        )
