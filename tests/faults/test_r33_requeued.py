"""R33: a run that is stopped and continued again and again has one tracking run, one step axis, and
each step once in its log.
"""

import signal

import pytest
from killable import Command, Run


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.soak)])
def test_r33_requeued_run_is_one_run_for_its_log_and_tracker(tmp_path, toy_folder, times):
    run = Run(
        tmp_path,
        toy_folder("bert"),
        "bi-encoder-full",
        f"optimization.max_steps={times * 12 + 20}",
        "validation.every_steps=1000",
        "trackers=[{kind: wandb, project: tests}]",
    )
    steps = 0
    for _ in range(times):
        command = Command(*run.words("a", "--resume"))
        run.wait_for_step(command, "a", steps + 2)
        command.send(signal.SIGTERM)
        assert command.wait() == [85], command.text()
        assert len(run.losses("a")) > steps
        steps = len(run.losses("a"))
    assert Command(*run.words("a", "--resume")).wait() == [0]
    assert len(run.losses("a")) == times * 12 + 20, "each step once"
    times_logged = [record["time_seconds"] for record in run.log("a")]
    assert times_logged == sorted(times_logged)
    run_folders = [path.name for path in (run.path("a") / "wandb").glob("offline-run-*")]
    assert len(run_folders) == times + 1
    assert len({name.rpartition("-")[2] for name in run_folders}) == 1, "one tracking run"
