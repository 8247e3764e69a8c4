"""Stopped, killed or started twice: a pipeline with a real fit goes on from the stage that was not
done.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.storage.locks import is_locked

FIT = """
name: fitting
stages:
  look:
    command: nearfar recipe check a.yaml
  fit:
    command: >-
      nearfar fit a.yaml model.backbone=toy data.train=pairs.jsonl output=${folder}
      name=run optimization.batch_size=4 optimization.max_steps=STEPS
      machine.accelerator=cpu machine.precision=fp32 data.validation_ratio=0.2
    outputs: {model: run/model}
    after: [look]
  after:
    command: nearfar recipe show ${fit.folder}/run/recipe.yaml
"""


@pytest.fixture
def fitting(place: Path, toy_folder) -> Callable[[int], None]:  # type: ignore[no-untyped-def]
    """Writes the pipeline with a fit of so many steps."""
    Path("toy").symlink_to(toy_folder("bert"))
    return lambda steps: (
        Path("f.yaml").write_text(FIT.replace("STEPS", str(steps)), encoding="utf-8") and None
    )


def wait_for(what: Callable[[], bool]) -> None:
    """Waits until `what` is true; five minutes are for a machine that others use too."""
    for _ in range(30_000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def stage_process() -> int:
    """The process of the stage that runs, as the lock names it."""
    lock = Path("runs/fitting/.lock")
    wait_for(lambda: lock.read_text().endswith("}\n"))
    return int(json.loads(lock.read_text())["stage_process"])


def steps_done() -> bool:
    """Whether the fit has done a step."""
    return any(
        "train/loss" in log.read_text() for log in Path("runs/fitting/fit").glob("*/run/log.jsonl")
    )


def killed(pipeline: "subprocess.Popen[str]", child: int) -> None:
    """Both are gone, and nobody could do anything about it."""
    pipeline.kill()
    pipeline.wait()
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: not is_locked(Path("runs/fitting")))


def test_pipeline_killed_in_a_stage_continues(fitting, nearfar, begun) -> None:
    fitting(3)
    running = begun("pipeline", "f.yaml")
    wait_for(lambda: bool(list(Path("runs/fitting/fit").glob("*/run/environment.json"))))
    killed(running, stage_process())
    assert not list(Path("runs/fitting/fit").glob("*.json"))
    ended = nearfar("pipeline", "f.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "look: done before" in ended.stdout
    assert "fit: to run: it started and did not finish" in ended.stdout
    assert re.findall(r"^(\w+): done in", ended.stdout, re.MULTILINE) == ["fit", "after"]
    assert Path("runs/fitting/fit/latest/run/model/config.json").is_file()
    assert not list(Path("runs/fitting/fit").glob("*.unfinished-*")), "it went on in its folder"


def test_second_pipeline_is_refused_while_a_stage_still_runs(fitting, nearfar, begun) -> None:
    fitting(1_000_000)
    running = begun("pipeline", "f.yaml")
    wait_for(steps_done)
    child = stage_process()
    for alive in (running.pid, child):
        refused = nearfar("pipeline", "f.yaml")
        assert refused.returncode == 2
        assert (
            f"runs/fitting is in use by a pipeline: process {running.pid} on {socket.gethostname()}"
            " since" in refused.stderr
        )
        assert f"at stage fit (process {child})" in refused.stderr
        if alive == running.pid:
            running.kill()
            running.wait()
    assert not Path(f"/proc/{running.pid}").exists()
    killed(running, child)
    assert nearfar("pipeline", "f.yaml", "--only", "look").returncode == 0


def test_ctrl_c_is_passed_on_once_and_the_fit_saves(fitting, nearfar, begun) -> None:
    fitting(1_000_000)
    running = begun("pipeline", "f.yaml")
    wait_for(steps_done)
    running.send_signal(signal.SIGINT)
    out, error = running.communicate(timeout=120)
    assert running.returncode == 130, out + error
    assert "stopped: at stage fit, by Ctrl-C; the same command continues from there" in error
    assert "stopping after this step" in out
    (run,) = Path("runs/fitting/fit").glob("*/run")
    assert json.loads((run / "status.json").read_text())["status"] == "stopped"
    assert (run / "model/config.json").is_file(), "the fit ended in its own way"
    assert not list(Path("runs/fitting/fit").glob("*.json"))
    again = nearfar("pipeline", "f.yaml", "--dry-run")
    assert "fit    to run: it started and did not finish" in again.stdout
