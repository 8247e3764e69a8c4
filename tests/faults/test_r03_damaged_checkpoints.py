"""R03, R04, R15, R16, R38: a run walks back over damaged checkpoints, says why, and never continues
with something else than it was started with.
"""

import json
import shutil

import pytest
from killable import Command, Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_folder):
    """A run whose last attempt was killed at the end of its training."""
    run = Run(tmp_path_factory.mktemp("runs"), toy_folder("bert"), "bi-encoder-full")
    assert Command(*run.words("whole")).wait() == [0]
    return run


@pytest.fixture
def run(finished, tmp_path, request):
    """The same without its end; `run.name` is its name."""
    name = request.node.name.replace("[", "-").replace("]", "").replace(" ", "-")
    folder = finished.path(name)
    shutil.copytree(finished.path("whole"), folder, symlinks=True)
    for file in ("status.json", "evaluation.json", "report.html"):
        (folder / file).unlink()
    shutil.rmtree(folder / "model")
    finished.name = name
    return finished


def newest(run, number=-1):
    return sorted((run.path(run.name) / "checkpoints").glob("step-*"))[number]


def flip_byte(path, place=-5):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def shard(checkpoint):
    return next(checkpoint.glob("*.safetensors"))


def resume(run, *words, code=0):
    command = Command(*run.words(run.name, "--resume", *words))
    assert command.wait() == [code], command.text()[-3000:]
    return command.text()


DAMAGES = {
    "truncated": (lambda path: shard(path).write_bytes(shard(path).read_bytes()[:-8]), "bytes"),
    "one byte flipped": (lambda path: flip_byte(shard(path)), "was altered"),
    "missing": (lambda path: shard(path).unlink(), "is missing"),
    "without manifest": (lambda path: (path / "manifest.json").unlink(), "is missing"),
    "manifest altered": (lambda path: flip_byte(path / "manifest.json", 40), "manifest.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_skipped_with_its_reason(run, damage):
    inflict, reason = DAMAGES[damage]
    inflict(newest(run))
    name = newest(run).name
    before = newest(run, -2).name
    text = resume(run)
    assert "a checkpoint is skipped" in text
    assert name in text
    assert reason in text
    assert f"continuing after step {int(before.removeprefix('step-'))}" in text
    assert run.losses(run.name) == run.losses("whole")


def test_run_without_a_whole_checkpoint_is_refused(run):
    for checkpoint in (newest(run), newest(run, -2)):
        flip_byte(shard(checkpoint))
    text = resume(run, code=2)
    assert str(shard(newest(run))) in text
    assert str(shard(newest(run, -2))) in text
    assert "--replace" in text
    assert Command(*run.words(run.name, "--replace")).wait() == [0]
    assert run.losses(run.name) == run.losses("whole")


def test_altered_best_weights_are_refused_by_name(run):
    best = sorted((run.path(run.name) / "checkpoints/best").glob("*.safetensors"))[-1]
    flip_byte(best)
    text = resume(run, code=2)
    assert best.name in text
    assert "was altered" in text
    assert not (run.path(run.name) / "model").exists()


def test_checkpoint_of_a_newer_version_is_refused(run):
    from trainer.storage.manifest import read_manifest, write_manifest

    content = read_manifest(newest(run))
    write_manifest(newest(run), {**content, "format": 99}, content["files"])
    text = resume(run, code=2)
    assert "format 99" in text
    assert "continue with the version that wrote it" in text


CHANGES = {
    "seed": ("seed=14", "seed: 13 before, now 14"),
    "batch": ("optimization.batch_size=16", "optimization.batch_size: 8 before, now 16"),
    "steps": ("optimization.max_steps=30", "optimization.max_steps: 24 before, now 30"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_refused_with_the_difference(run, change):
    word, difference = CHANGES[change]
    text = resume(run, word, code=2)
    assert difference in text
    assert "--accept-changes" in text


def test_other_data_and_tokenizer_are_refused(run, tmp_path):
    data = tmp_path / "train.jsonl"
    original = run.parent / "train.jsonl"
    data.write_text(original.read_text().replace("vault", "safe"))
    facts = run.path(run.name) / "data.json"
    former_facts = facts.read_text()
    assert "data.train.sha256" in resume(run, f"data.train={data}", code=2)
    assert facts.read_text() == former_facts
    data.write_text(original.read_text())
    backbone = tmp_path / "backbone"
    shutil.copytree(run.backbone, backbone)
    tokenizer = backbone / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    words = (f"data.train={data}", f"model.backbone={backbone}")
    assert "model.backbone and its tokenizer" in resume(run, *words, code=2)


def test_accepted_change_is_recorded(run):
    text = resume(run, "optimization.max_steps=30", "--accept-changes")
    assert "continuing with changes: optimization.max_steps: 24 before, now 30" in text
    attempts = json.loads((run.path(run.name) / "attempts.json").read_text())
    assert attempts[-1]["accepted_changes"] == ["optimization.max_steps: 24 before, now 30"]
    assert len(run.losses(run.name)) == 30


def test_moved_data_and_another_micro_batch_are_allowed(run, tmp_path):
    shutil.copy(run.parent / "train.jsonl", tmp_path / "moved.jsonl")
    shutil.rmtree(newest(run))
    resume(run, f"data.train={tmp_path / 'moved.jsonl'}", "machine.micro_batch_tokens=48")
    assert run.losses(run.name) == pytest.approx(run.losses("whole"), rel=1e-4)


def test_finished_run_says_so_and_a_missing_one_starts(run):
    run.name = "whole"
    assert "is finished; nothing is left to do" in resume(run)
    run.name = "new"
    resume(run)
    assert run.losses("new") == run.losses("whole")
