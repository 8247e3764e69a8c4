"""A bad node is named before the first step, and all ranks end with code 2."""

import importlib.metadata
import json
import shutil
import socket
import time
from pathlib import Path

import pytest
from killable import Command, Run

from trainer.strategies.machine.nodes import NodeReport, node_faults


@pytest.fixture
def run(tmp_path, toy_folder):
    return Run(tmp_path, toy_folder("bert"), "bi-encoder-full", "optimization.max_steps=2")


def on_last_rank(change):
    """Applies `change` in the process of rank 1, whose host gets another name."""

    def before(rank):
        if rank == 1:
            socket.gethostname = lambda: "node-b"
            change()

    return before


def other_version():
    original = importlib.metadata.version
    module = __import__("trainer.strategies.machine.nodes", fromlist=["version"])
    module.version = lambda name: "2.0.1" if name == "torch" else original(name)


def other_code():
    original = Path.read_bytes

    def read_bytes(path):
        return original(path) + (b"\n" if path.name == "losses.py" else b"")

    Path.read_bytes = read_bytes


def full_disk():
    usage = shutil.disk_usage("/")
    shutil.disk_usage = lambda _: usage._replace(free=3 << 20)


def own_disk():
    original = Path.exists
    Path.exists = lambda path: ".nodes." not in path.name and original(path)


def other_model():
    module = __import__("trainer.run", fromlist=["model_digest"])
    module.model_digest = lambda _: "another"


@pytest.mark.parametrize(
    ("change", "local_rank", "message"),
    [
        (other_version, 1, "rank 1 on node-b has torch 2.0.1, but most ranks have 2."),
        (other_code, 1, "rank 1 on node-b has code of nearfar"),
        (full_disk, 1, "rank 1 on node-b has only 3 MB free in "),
        (own_disk, 1, "rank 1 on node-b does not see the folder of the first rank"),
        (other_model, 0, "versions of the base model: not like most ranks is rank 1 on node-b"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_node_is_named_and_nothing_is_written(run, change, local_rank, message, monkeypatch):
    monkeypatch.setattr("trainer.strategies.machine.nodes.PROBE_SECONDS", 0.5)

    def before(rank):
        on_last_rank(change)(rank)
        if rank == 1:
            module = __import__("trainer.run", fromlist=["local_rank"])
            module.local_rank = lambda _: local_rank

    command = Command(*run.words("a"), ranks=2, before=before)
    assert command.wait(90) == [2, 2], command.text()[-3000:]
    assert message in command.text()
    assert not run.path("a").exists()
    assert not list(run.parent.glob(".nodes*"))


def test_other_clock_is_only_reported_and_the_nodes_are_recorded(run):
    def other_clock():
        original = time.time
        time.time = lambda: original() + 3600

    command = Command(*run.words("a"), ranks=2, before=on_last_rank(other_clock))
    assert command.wait(90) == [0, 0], command.text()[-3000:]
    assert "warning: the clock of rank 1 on node-b differs by 3,6" in command.text()
    assert "2 ranks on 2 nodes, with the same versions: all-reduce at " in command.text()
    record = json.loads((run.path("a") / "nodes.json").read_text())
    assert record["all_reduce_gigabytes_per_second"] > 0
    first, second = record["ranks"]
    assert (first["clock_skew_seconds"], second["host"]) == (0, "node-b")
    assert second["clock_skew_seconds"] == pytest.approx(3600, abs=30)
    assert first["versions"] == second["versions"]


def report(rank, free_memory_bytes):
    return NodeReport(
        rank, f"gpu{rank}", 0, "H200", free_memory_bytes, 140 << 30, {}, {}, True, 0.0
    )


def test_gpu_that_another_program_uses_is_named():
    assert node_faults([report(0, 139 << 30), report(1, 80 << 30)]) == []
    (fault,) = node_faults([report(0, 139 << 30), report(1, 60 << 30), report(2, 130 << 30)])
    assert fault.startswith("rank 1 on gpu1 has only 64.4 of 150.3 GB of GPU memory free; end ")
