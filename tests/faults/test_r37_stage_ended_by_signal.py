"""R37: a stage that a signal ends is not recorded as done, with and without declared outputs; it is
started again next time, and continues. A signal to the pipeline reaches its stage.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.storage.locks import is_locked

PIPELINE = """
name: signals
output: {output}
stages:
  fit:
    command: >-
      nearfar fit {recipe} model.backbone={model} data.train={data} output=${{folder}}
      name=run optimization.batch_size=8 optimization.epochs=1 optimization.max_steps={steps}
      validation.patience=null
      optimization.warmup_steps=0 machine.accelerator=cpu machine.threads=1
{outputs}
  after:
    command: nearfar recipe check {recipe}
    after: [fit]
"""
OUTPUTS = {"with outputs": "    outputs: {model: run/model}", "without": ""}


@pytest.fixture
def start(tmp_path, toy_folder, repository):
    """A function that starts the pipeline."""
    rows = [{"query": f"disk {number}", "positive": f"size {number}"} for number in range(80)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    processes = []

    def begin(steps, outputs):
        text = PIPELINE.format(
            output=tmp_path / "runs",
            recipe=repository / "recipes/bi-encoder-lora.yaml",
            model=toy_folder("bert"),
            data=tmp_path / "train.jsonl",
            steps=steps,
            outputs=OUTPUTS[outputs],
        )
        (tmp_path / "p.yaml").write_text(text)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "trainer", "pipeline", str(tmp_path / "p.yaml")],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=repository,
                start_new_session=True,
            )
        )
        return processes[-1]

    yield begin
    for process in processes:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def wait_for_step(folder: Path, process) -> int:
    """Waits until the fit has logged some steps, and returns its process."""
    for _ in range(12_000):
        logs = list(folder.glob("fit/*/run/log.jsonl"))
        if logs and logs[0].read_text().count("train/loss") > 5:
            return int(json.loads((folder / ".lock").read_text())["stage_process"])
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("the fit has not begun")


def check_not_done(folder: Path) -> None:
    assert not is_locked(folder)
    assert not list(folder.glob("fit/*.json")), "recorded as done"
    assert not (folder / "after").exists()


@pytest.mark.parametrize(
    ("number", "code", "outputs"),
    [
        (signal.SIGKILL, 137, "with outputs"),
        (signal.SIGKILL, 137, "without"),
        (signal.SIGTERM, 85, "without"),
    ],
)
def test_r37_stage_ended_by_a_signal_is_not_done(tmp_path, start, number, code, outputs):
    folder = tmp_path / "runs" / "signals"
    running = start(100_000, outputs)
    os.kill(wait_for_step(folder, running), number)
    output, _ = running.communicate(timeout=120)
    assert running.returncode == code, output
    check_not_done(folder)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_r37_signal_to_the_pipeline_stops_its_stage(tmp_path, start, number):
    stop(tmp_path / "runs" / "signals", start(100_000, "without"), number)


def test_r37_stopped_stage_continues_next_time(tmp_path, start):
    folder = tmp_path / "runs" / "signals"
    stop(folder, start(150, "without"), signal.SIGTERM)
    running = start(150, "without")
    output, _ = running.communicate(timeout=240)
    assert running.returncode == 0, output
    assert "fit: to run: it started and did not finish" in output
    records = map(json.loads, (folder / "fit/latest/run/log.jsonl").read_text().splitlines())
    steps = [record["step"] for record in records if "train/loss" in record]
    assert steps == list(range(150)), "each step once"
    assert list(folder.glob("fit/*.json"))
    assert list(folder.glob("after/*.json"))


def stop(folder, running, number):
    stage = wait_for_step(folder, running)
    running.send_signal(number)
    output, _ = running.communicate(timeout=120)
    assert running.returncode == 85, output
    assert not Path(f"/proc/{stage}").exists(), "the pipeline did not wait for its stage"
    check_not_done(folder)
