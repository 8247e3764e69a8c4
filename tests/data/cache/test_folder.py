"""The folder of the cache: where it is, what is removed, and what happens if it is unusable."""

import logging
import multiprocessing
import os
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pytest

from trainer.data.cache.folder import cache_folder, find_or_build
from trainer.storage.manifest import MANIFEST


def build(folder: Path) -> dict[str, int]:
    table = pa.table({"number": list(range(1000))})
    with pa.ipc.new_file(str(folder / "numbers.arrow"), table.schema) as file:
        file.write_table(table)
    return {"count": 1000}


def refuse(folder: Path) -> dict[str, int]:
    raise AssertionError("built a second time")


def numbers(entry) -> list[int]:
    return entry.tables["numbers.arrow"].column("number").to_pylist()


def test_variables_name_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "rows"
    monkeypatch.setenv("NEARFAR_CACHE", "off")
    assert cache_folder() is None
    monkeypatch.delenv("NEARFAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder() == tmp_path / "user" / "nearfar" / "rows"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "nearfar" / "rows"


def test_entry_is_built_once(monkeypatch, tmp_path):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    first = find_or_build({"a": 1}, build, "numbers")
    second = find_or_build({"a": 1}, refuse, "numbers")
    assert numbers(first) == numbers(second) == list(range(1000))
    assert first.sha256 == second.sha256 != {}
    with pytest.raises(AssertionError, match="second time"):
        find_or_build({"a": 2}, refuse, "numbers")


def test_entries_that_are_no_longer_used_are_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    for number in range(2):
        find_or_build({"a": number}, build, "numbers")
    old, recent = sorted((tmp_path / "rows").iterdir())
    long_ago = time.time() - 40 * 24 * 3600
    os.utime(old / "content" / MANIFEST, (long_ago, long_ago))
    (recent / ".content.12345678.partial").mkdir()
    find_or_build({"a": 2}, build, "numbers")
    assert not old.exists()
    assert recent.exists()


@pytest.mark.parametrize("folder", ["/proc/nearfar", "/dev/null/nearfar"])
def test_folder_that_cannot_be_written_gives_a_warning_and_the_data(folder, monkeypatch, caplog):
    monkeypatch.setenv("NEARFAR_CACHE", folder)
    with caplog.at_level(logging.WARNING):
        entry = find_or_build({"a": 1}, build, "numbers")
    assert numbers(entry) == list(range(1000))
    assert entry.sha256 == {}
    assert f"{folder}/rows cannot be used" in caplog.text


def test_entry_of_a_read_only_folder_is_used(monkeypatch, tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("test_", "pytest-", "popen-")):  # closed to other users
            folder.chmod(0o755)
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    find_or_build({"a": 1}, build, "numbers")
    for folder in tmp_path.rglob("*"):
        folder.chmod(0o555)

    def read() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        assert numbers(find_or_build({"a": 1}, refuse, "numbers")) == list(range(1000))
        assert numbers(find_or_build({"a": 2}, build, "numbers")) == list(range(1000))

    process = multiprocessing.get_context("fork").Process(target=read)
    process.start()
    process.join()
    for folder in tmp_path.rglob("*"):
        folder.chmod(0o755)
    assert process.exitcode == 0
    assert len(list((tmp_path / "rows").iterdir())) == 1


def test_full_disk_gives_a_warning_and_the_data(monkeypatch, caplog, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        monkeypatch.setenv("NEARFAR_CACHE", str(disk))
        with caplog.at_level(logging.WARNING):
            entry = find_or_build({"a": 1}, build, "numbers")
        assert not list(disk.rglob("*.arrow"))
        assert not list(disk.rglob("*.partial"))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    assert numbers(entry) == list(range(1000))
    assert "No space left on device" in caplog.text
