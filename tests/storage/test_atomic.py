"""Files and folders that are complete or absent, whatever ends the writing."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.storage import atomic
from trainer.storage.atomic import (
    atomic_file,
    atomic_folder,
    move_if_free,
    write_link,
    write_safetensors,
    write_text,
)


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def write_half(path: Path):
    path.write_text("half")
    raise ZeroDivisionError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_text_that_cannot_be_encoded_keeps_the_former_file(tmp_path):
    target = tmp_path / "file.json"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "new \udcff")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_error_during_writing_keeps_the_former_file(tmp_path):
    target = tmp_path / "file"
    write_text(target, "old")
    with pytest.raises(ZeroDivisionError), atomic_file(target) as partial:
        write_half(partial)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_files_and_folders_have_the_mode_of_the_umask(tmp_path, umask):
    write_text(tmp_path / "text", "x")
    write_safetensors(tmp_path / "weights.safetensors", {"a": torch.ones(2)}, {"format": "pt"})
    with atomic_folder(tmp_path / "folder") as partial:
        write_safetensors(partial / "weights.safetensors", {"a": torch.ones(2)}, {"format": "pt"})
    for file in ("text", "weights.safetensors", "folder/weights.safetensors"):
        assert mode(tmp_path / file) == 0o666 & ~umask, file
    assert mode(tmp_path / "folder") == 0o777 & ~umask


def test_folder_replaces_another_in_one_step(tmp_path):
    target = tmp_path / "model"
    for content in ("first", "second"):
        with atomic_folder(target) as partial:
            (partial / "file").write_text(content)
            (partial / content).touch()
            assert partial.parent == tmp_path
    assert sorted(path.name for path in target.iterdir()) == ["file", "second"]
    assert list(tmp_path.iterdir()) == [target]


def test_error_during_writing_keeps_the_former_folder(tmp_path):
    with atomic_folder(tmp_path / "model") as partial:
        (partial / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model") as partial:
        write_half(partial / "file")
    assert (tmp_path / "model" / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_folders_are_exchanged_without_support_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: object())
    test_folder_replaces_another_in_one_step(tmp_path)


def test_existing_folder_is_not_replaced_by_default(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert not move_if_free(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "file").read_text() == "two"
    assert move_if_free(tmp_path / "one", tmp_path / "three")
    assert (tmp_path / "three" / "file").read_text() == "one"


def test_link_is_replaced(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_link(tmp_path / "latest", name)
    assert (tmp_path / "latest").resolve() == tmp_path / "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "latest"]


def test_killed_writer_keeps_the_former_file(tmp_path):
    write_text(tmp_path / "file", "old")
    program = """
import pathlib, sys, time
from trainer.storage.atomic import atomic_file
with atomic_file(pathlib.Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("here", flush=True)
    time.sleep(600)
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "file")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout.readline() == "here\n"
        writer.send_signal(signal.SIGKILL)
        assert writer.wait(30) == -signal.SIGKILL
    finally:
        writer.kill()
    assert (tmp_path / "file").read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {tmp_path / "file"}
    assert left.name.endswith(".partial")
