"""R42: every file and folder that a command leaves is readable as the umask says."""

import json
import os
import stat

import forked
import pytest


@pytest.fixture(params=[0o022, 0o027, 0o002], ids=oct)
def umask(request):
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def check_modes(folder, umask):
    paths = [folder, *folder.rglob("*")]
    assert len(paths) > 3
    for path in paths:
        if not path.is_symlink():
            full = 0o777 if path.is_dir() else 0o666
            assert stat.S_IMODE(path.stat().st_mode) == full & ~umask, path


def test_r42_files_have_the_mode_of_the_umask(tmp_path, toy_folder, repository, umask):
    rows = [{"query": f"disk {number}", "positive": f"size {number}"} for number in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    documents = [{"_id": str(number), "text": f"size {number}"} for number in range(40)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    model, train = toy_folder("bert"), tmp_path / "train.jsonl"
    settings = {
        "model.backbone": model,
        "data.train": train,
        "data.test": train,
        "output": tmp_path,
        "name": "run",
        "trackers": "[{kind: wandb, project: tests}, {kind: tensorboard}]",
        "optimization.batch_size": 8,
        "optimization.warmup_steps": 0,
        "machine.accelerator": "cpu",
        "machine.threads": 1,
    }
    commands = {
        "run": ["fit", "recipes/bi-encoder-lora.yaml", *(f"{k}={v}" for k, v in settings.items())],
        "index": ["index", model, tmp_path / "corpus.jsonl", "-o", tmp_path / "index"],
        "mined": ["mine", model, train, "-o", tmp_path / "mined", "--percent-of-positive", "0"],
    }
    for name, words in commands.items():
        ended = forked.nearfar(*words, folder=repository)
        assert ended.returncode == 0, ended.stderr
        check_modes(tmp_path / name, umask)
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert (tmp_path / "run" / "model" / "adapter" / "adapter_model.safetensors").exists()
