"""R02, R05, R06, R36, R41, R43: disks that are full, read-only, other ones or gone."""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from forked import nearfar
from killable import Command, Run
from safetensors.torch import load_file


def may_mount() -> bool:
    """Whether this process may mount a disk: root may, but not in every container."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            return False
        subprocess.run(["umount", folder], check=True)
    return True


needs_a_disk = pytest.mark.skipif(not may_mount(), reason="this process may not mount a small disk")


@contextmanager
def small_disk(folder: Path, megabytes: float):
    """A tmpfs of this size at `folder`."""
    folder.mkdir()
    size = f"size={int(megabytes * 1024)}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave_kilobytes: int = 0) -> Path:
    """Fills the disk of a folder, and returns the file that does it."""
    ballast = folder / "ballast"
    free = shutil.disk_usage(folder).free
    ballast.write_bytes(bytes(max(0, free - leave_kilobytes * 1024)))
    return ballast


@pytest.fixture
def run(tmp_path, toy_folder):
    words = ["optimization.max_steps=80", "validation.every_steps=40"]
    return Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words)


@needs_a_disk
@pytest.mark.parametrize("is_full", [True, False], ids=["full", "read-only"])
def test_evaluation_is_shown_before_a_disk_refuses_its_file(tmp_path, is_full):
    judged = tmp_path / "judged.jsonl"
    judged.write_text('{"query": "how to list", "positive": "list it"}\n')
    with small_disk(tmp_path / "disk", 0.1) as disk:
        if is_full:
            fill(disk)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        place = disk / "out.json"
        ended = nearfar("evaluate", "bm25", "--data", judged, "--out", place)
        files = [path.name for path in disk.iterdir()]
    reason = "No space left on device; free some space, or" if is_full else "Read-only file system;"
    assert ended.returncode == 2
    assert f"error: {place}: {reason} name a place you may write to" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "nDCG@10" in ended.stdout
    assert files == ["ballast"] * is_full


@needs_a_disk
def test_training_goes_on_when_a_checkpoint_cannot_be_saved(run, tmp_path):
    with small_disk(tmp_path / "disk", 8) as disk:
        command = Command(*run.words("a", f"output={disk}", "checkpoints.every_steps=10"))
        folder = disk / "a"
        command.wait_for((folder / "checkpoints/latest").exists)
        ballast = fill(disk, leave_kilobytes=60)
        command.wait_for(lambda: "a checkpoint could not be saved" in command.text())
        ballast.unlink()
        assert command.wait() == [0], command.text()[-3000:]
        assert "training goes on" in command.text()
        assert (folder / "checkpoints/latest").resolve().name == "step-000000080"
        assert not [*folder.rglob("*.partial")]


@needs_a_disk
def test_disk_that_stays_full_ends_the_run_with_89(run, tmp_path):
    with small_disk(tmp_path / "disk", 160) as disk:  # several ranks want 100 MB at the start
        words = [f"output={disk}", "checkpoints.every_steps=5"]
        command = Command(*run.words("a", *words), ranks=2)
        checkpoints = disk / "a/checkpoints"
        command.wait_for((checkpoints / "latest").exists)
        ballast = fill(disk, leave_kilobytes=60)
        assert command.wait() == [89, 89], command.text()[-3000:]
        assert "3 times in a row" in command.text()
        before = (checkpoints / "latest").resolve().name
        ballast.unlink()
        command = Command(*run.words("a", *words, "--resume", "checkpoints.every_steps=1000"))
        assert command.wait() == [0]
        assert f"from {checkpoints / before}" in command.text()


@needs_a_disk
def test_read_only_checkpoint_folder_is_refused_before_the_first_step(run, tmp_path):
    words = ["optimization.max_steps=6"]
    command = Command(*run.words("a", *words))
    run.wait_for_step(command, "a", 3)
    command.send(15)
    command.wait()
    checkpoints = run.path("a") / "checkpoints"
    steps = len(run.losses("a"))
    subprocess.run(["mount", "--bind", str(checkpoints), str(checkpoints)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(checkpoints)], check=True)
    try:
        command = Command(*run.words("a", *words, "--resume"))
        assert command.wait() == [2], command.text()[-3000:]
    finally:
        subprocess.run(["umount", str(checkpoints)], check=True)
    assert "Read-only" in command.text()
    assert len(run.losses("a")) == steps


@needs_a_disk
def test_checkpoints_on_another_disk_than_the_temporary_folder_are_never_partial(run, tmp_path):
    with small_disk(tmp_path / "disk", 8) as disk:
        words = [f"output={disk}", "checkpoints.every_steps=1", "optimization.max_steps=60"]
        command = Command(*run.words("a", *words))
        checkpoints = disk / "a/checkpoints"
        seen = 0
        while command.is_alive():
            for path in checkpoints.glob("step-*"):
                try:
                    names = {file.name for file in path.iterdir()}
                except FileNotFoundError:  # removed since it was listed
                    continue
                # A folder that is being removed loses its manifest first.
                if "manifest.json" in names and path.exists():
                    seen += 1
                    assert any(name.endswith(".safetensors") for name in names) or not path.exists()
            time.sleep(0.001)
        assert command.wait() == [0]
        assert seen > 20


def test_run_whose_folder_is_moved_away_stops_with_89(run):
    command = Command(*run.words("a", "optimization.max_steps=20000"), ranks=2)
    run.wait_for_step(command, "a", 10)
    run.path("a").rename(run.parent / "elsewhere")
    assert command.wait(60) == [89, 89], command.text()[-3000:]
    assert "the run folder was removed" in command.text()


@needs_a_disk
def test_full_disk_at_the_last_step_does_not_lose_the_model(run, tmp_path):
    words = ["optimization.max_steps=40", "checkpoints.every_steps=null"]
    assert Command(*run.words("whole", *words)).wait() == [0]
    with small_disk(tmp_path / "disk", 8) as disk:
        command = Command(
            *run.words("a", *words, f"output={disk}"), environment={"TMPDIR": str(tmp_path)}
        )
        folder = disk / "a"
        command.wait_for((folder / "log.jsonl").exists)
        command.wait_for(lambda: '"step": 20,' in (folder / "log.jsonl").read_text())
        fill(disk)
        assert command.wait() == [89], command.text()[-3000:]
        text = command.text()
        assert "there is no room for the model" in text
        place = Path(text.split("the model is in ")[1].split(" instead")[0])
        saved, expected = (
            load_file(path / "model.safetensors") for path in (place, run.path("whole") / "model")
        )
        assert all((saved[name] == expected[name]).all() for name in expected)
        assert not (folder / "model").exists()


@pytest.mark.parametrize("recipe", ["bi-encoder-lora", "bi-encoder-full"])
def test_backbone_that_changes_during_the_run_does_not_change_its_model(
    tmp_path, toy_folder, recipe
):
    """R36: the model is the one that was trained, whatever has become of the files."""
    backbone = tmp_path / "backbone"
    run = Run(tmp_path, backbone, recipe, "validation.every_steps=100")
    for change in ("whole", "altered", "removed"):
        shutil.rmtree(backbone, ignore_errors=True)
        shutil.copytree(toy_folder("bert"), backbone)
        command = Command(*run.words(change))
        command.wait_for(lambda: "steps of 8 queries" in command.text())  # noqa: B023 - waits here
        if change == "removed":
            shutil.rmtree(backbone)
        elif change == "altered":
            with (backbone / "model.safetensors").open("r+b") as file:
                file.seek(4096)
                file.write(os.urandom((backbone / "model.safetensors").stat().st_size - 4096))
        assert command.wait() == [0], command.text()[-3000:]
        saved, expected = (
            load_file(run.path(name) / "model/model.safetensors") for name in (change, "whole")
        )
        assert all((saved[name] == expected[name]).all() for name in expected)
