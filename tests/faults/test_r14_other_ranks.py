"""R14: a run goes on with other ranks and under another strategy, to the same result."""

import signal

import pytest
from killable import Command, Run


@pytest.fixture
def run(tmp_path, toy_folder):
    return Run(
        tmp_path,
        toy_folder("bert"),
        "bi-encoder-full",
        "optimization.learning_rate=0.0001",
        "objective.temperature=0.5",
    )


def stop_at(run, name, step, ranks, strategy="ddp"):
    """Runs until a step, and stops there by SIGTERM to one rank."""
    command = Command(*run.words(name, "--resume"), ranks=ranks, strategy=strategy)
    run.wait_for_step(command, name, step)
    command.send(signal.SIGTERM, rank=ranks - 1)
    assert command.wait() == [85] * ranks, command.text()[-3000:]


def finish(run, name, ranks=1, strategy="ddp"):
    command = Command(*run.words(name, "--resume"), ranks=ranks, strategy=strategy)
    assert command.wait() == [0] * ranks, command.text()[-3000:]


@pytest.mark.parametrize(
    "path",
    [
        [(4, "ddp"), (2, "ddp"), (1, "ddp"), (4, "ddp")],
        [(2, "ddp"), (2, "fsdp2"), (2, "zero2"), (2, "ddp")],
        [(2, "zero3"), (4, "zero1"), (2, "zero3")],
        [(4, "hsdp"), (2, "fsdp2"), (4, "hsdp"), (2, "zero2")],
    ],
    ids=lambda path: "-".join(f"{kind}{ranks}" for ranks, kind in path),
)
def test_run_goes_on_elsewhere(run, path):
    finish(run, "whole")
    expected = run.losses("whole")
    for number, (ranks, strategy) in enumerate(path[:-1]):
        stop_at(run, "moved", 4 + 5 * number, ranks, strategy)
    finish(run, "moved", *path[-1])
    assert run.losses("moved") == pytest.approx(expected, rel=1e-6, abs=1e-6)
