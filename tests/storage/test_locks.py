"""Locks: one holder, named; none once the process has ended."""

import os
import signal
import subprocess
import sys
import time

import pytest

from trainer.errors import BadFolder
from trainer.storage.locks import exclusive, holder_of, is_locked, lock_folder

IN_USE = "{folder} is taken by {holder}"

HOLDER = """
import os, pathlib, sys, time
from trainer.storage.locks import exclusive, lock_folder
folder = pathlib.Path(sys.argv[1])
if sys.argv[2] == "itself":
    context = exclusive(folder)
    context.__enter__()
else:
    lock = lock_folder(folder, "in use")
if sys.argv[2] == "handed on":
    import subprocess
    sleeper = subprocess.Popen(["sleep", "600"], pass_fds=(lock.descriptor,))
    print(sleeper.pid, flush=True)
elif sys.argv[2] == "forked":
    child = os.fork()
    if child == 0:
        time.sleep(600)
    lock.release()
    print(child, flush=True)
else:
    print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def start(tmp_path):
    processes = []

    def starting(how: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-c", HOLDER, str(tmp_path), how]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1], processes[-1].stdout.readline().strip()

    yield starting
    for process in processes:
        process.kill()
        process.wait()


def wait_until_free(folder, seconds=10):
    """The kernel lets go of a killed process's files a moment after it is gone."""
    end = time.monotonic() + seconds
    while is_locked(folder) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_locked(folder)


def test_process_that_only_checks_does_not_keep_a_run_from_starting(tmp_path):
    (tmp_path / ".lock").touch()
    checker = subprocess.Popen(
        ["flock", "--shared", tmp_path / ".lock", "-c", "echo ready; sleep 0.03"],
        stdout=subprocess.PIPE,
    )
    assert checker.stdout.readline() == b"ready\n"
    lock_folder(tmp_path, IN_USE).release()
    checker.wait()


def test_second_lock_is_refused_and_names_the_holder(tmp_path, start):
    process, _ = start("file")
    before = (tmp_path / ".lock").read_bytes()
    with pytest.raises(BadFolder, match=rf"taken by process {process.pid} on "):
        lock_folder(tmp_path, IN_USE)
    assert (tmp_path / ".lock").read_bytes() == before
    assert is_locked(tmp_path)


def test_killed_holder_does_not_block(tmp_path, start):
    process, _ = start("file")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_until_free(tmp_path)
    with lock_folder(tmp_path, IN_USE):
        assert f"process {os.getpid()} on" in holder_of(tmp_path)


def test_program_with_the_lock_keeps_it_after_the_holder_is_killed(tmp_path, start):
    process, sleeper = start("handed on")
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        with pytest.raises(BadFolder, match="taken by"):
            lock_folder(tmp_path, IN_USE)
    finally:
        os.kill(int(sleeper), signal.SIGKILL)
    assert wait_until_free(tmp_path)


def test_forked_child_does_not_keep_a_lock_that_was_released(tmp_path, start):
    _, child = start("forked")
    try:
        os.kill(int(child), 0)
        assert not is_locked(tmp_path)
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_program_started_during_the_lock_does_not_inherit_it(tmp_path):
    with lock_folder(tmp_path, IN_USE):
        sleeper = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        assert not is_locked(tmp_path)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_lock_of_a_folder_writes_no_file_into_it(tmp_path, start):
    process, _ = start("itself")
    with pytest.raises(BadFolder, match="being changed by another process"), exclusive(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    process.kill()
    process.wait()
    with exclusive(tmp_path):
        pass


def test_folder_replaced_before_the_lock_is_not_changed(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    (tmp_path / "other").mkdir()
    plain = os.open

    def replaced(path, *arguments):
        descriptor = plain(path, *arguments)
        (tmp_path / "other").rename(tmp_path / "index")
        return descriptor

    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(BadFolder, match="was replaced by another process"):
        exclusive(tmp_path / "index").__enter__()
    monkeypatch.undo()
    (tmp_path / "index").rmdir()
    with (
        pytest.raises(BadFolder, match="was removed in the meantime"),
        exclusive(tmp_path / "index"),
    ):
        pass
