"""R32: a second run on the same folder is refused and told who holds it; a dead holder does not
block.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import BadFolder
from trainer.runtime.run_folder import RunFolder

HOLDER = """
import os, pathlib, sys, time
from trainer.runtime.run_folder import RunFolder
run = RunFolder.create(pathlib.Path(sys.argv[1]), "name: x", ["nearfar", "fit"], {})
print("held", flush=True)
if len(sys.argv) > 2:
    worker = os.fork()  # one that outlives the run, as a data loader's may
    if worker:
        run.finish("done")
        print(worker, flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("replace", [False, True])
def test_r32_second_run_is_refused_naming_host_and_process(tmp_path, holder, replace):
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(BadFolder) as caught:
        RunFolder.create(tmp_path / "run", "name: y", [], {}, replace)
    assert caught.value.exit_code == 2
    assert f"process {holder.pid} on {socket.gethostname()}" in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_r32_killed_holder_does_not_block(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with pytest.raises(BadFolder, match="a run that was killed before its end"):
        RunFolder.create(tmp_path / "run", "name: y", [], {})
    RunFolder.create(tmp_path / "run", "name: y", [], {}, replace=True).finish("done")
    assert (tmp_path / "run" / "recipe.yaml").read_text() == "name: y"


def test_r32_stale_lock_in_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / ".lock").write_text('{"host": "gone", "process": 1, "since": "2020-01-01"}')
    RunFolder.create(tmp_path, "name: y", [], {}).finish("done")


def test_r32_worker_that_outlives_the_run_does_not_hold_its_folder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run"), "fork"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == "held\n"
    worker = int(process.stdout.readline())
    try:
        os.kill(worker, 0)
        RunFolder.create(tmp_path / "run", "name: y", [], {}, replace=True).finish("done")
    finally:
        process.kill()
        os.kill(worker, signal.SIGKILL)
        process.wait()


def test_r32_one_of_two_simultaneous_runs_wins(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    rivals = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(3)
    ]
    try:
        first_lines = [rival.stdout.readline() for rival in rivals]
        assert first_lines.count("held\n") == 1
        losers = [rival for rival, line in zip(rivals, first_lines, strict=True) if line == ""]
        assert all("BadFolder" in rival.stderr.read() for rival in losers)
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
