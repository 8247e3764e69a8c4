"""Signals to `nearfar launch`, and to no rank of it: it passes them on, and ends with the code of
the run.
"""

import signal

import pytest
from killable import Command, Run

pytestmark = pytest.mark.slow
MACHINE = ["--machine", "launch/accelerate/cpu-2-ddp.yaml"]


def test_preempted_run_ends_the_launcher_with_85_and_continues(tmp_path, toy_folder):
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", "optimization.max_steps=400")
    for number, step in ((signal.SIGUSR1, 5), (signal.SIGTERM, 12)):
        command = Command("launch", *run.words("a")[1:], *MACHINE, "--resume")
        run.wait_for_step(command, "a", step, seconds=120)
        command.send(number)
        assert command.wait() == [85], command.text()[-3000:]
        assert run.status("a")["exit_code"] == 85
    assert [attempt["status"] for attempt in run.attempts("a")] == ["preempted"] * 2
    assert run.attempts("a")[1]["from_step"] > 5
