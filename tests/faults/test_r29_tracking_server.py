"""R29: a tracking server that refuses connections, hangs, dies or refuses-the-key costs a run
nothing: no step waits for it, the log is complete, and the run can be sent to it later.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from pytorch_lightning.loggers import Logger
from tracking_server import tracking_server

from trainer.runtime.tracking.best_effort import MAX_WAITING_CALLS, BestEffort

KEY = "c4nary" * 7
STEPS = 40
FAULTS = ("refuses-connections", "hangs", "refuses-the-key", "dies", "answers")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, toy_folder, repository):
    """For each fault a real run, all at the same time: the folder, exit code and messages."""
    folder = tmp_path_factory.mktemp("r29")
    rows = [{"query": f"disk {number}", "positive": f"size {number}"} for number in range(200)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    with ExitStack() as servers:
        processes = {}
        for fault in FAULTS:
            url = "http://127.0.0.1:9"
            if fault != "refuses-connections":
                url = servers.enter_context(tracking_server(fault)).url
            settings = {
                "model.backbone": toy_folder("bert"),
                "data.train": folder / "train.jsonl",
                "data.validation_ratio": 0.2,
                "output": folder,
                "name": fault,
                "trackers": "[{kind: wandb, project: tests}]",
                "optimization.batch_size": 8,
                "optimization.epochs": STEPS * 8 // 160,
                "optimization.warmup_steps": 0,
                "machine.accelerator": "cpu",
                "machine.threads": 1,
            }
            processes[fault] = subprocess.Popen(
                [sys.executable, "-m", "trainer", "fit", "recipes/bi-encoder-lora.yaml"]
                + [f"{key}={value}" for key, value in settings.items()],
                env={**clean, "HOME": str(folder), "WANDB_API_KEY": KEY, "WANDB_BASE_URL": url},
                cwd=repository,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        outputs = {fault: process.communicate(timeout=240) for fault, process in processes.items()}
    return {
        fault: (folder / fault, processes[fault].returncode, outputs[fault][0]) for fault in FAULTS
    }


def steps_of(folder):
    """The records of training steps."""
    records = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [record for record in records if "train/loss" in record]


@pytest.mark.parametrize("fault", FAULTS)
def test_r29_run_ends_as_without_the_fault(runs, fault):
    folder, exit_code, output = runs[fault]
    assert exit_code == 0, output
    assert (folder / "model" / "config.json").exists()
    assert KEY not in output
    steps = steps_of(folder)
    assert [record["step"] for record in steps] == list(range(STEPS))
    healthy = steps_of(runs["answers"][0])
    # The client gives up after 10 seconds at the earliest.
    assert steps[-1]["time_seconds"] < healthy[-1]["time_seconds"] + 8, "a step has waited"


@pytest.mark.parametrize("fault", FAULTS[:3])
def test_r29_run_without_a_server_is_stored_to_be_sent_later(runs, fault):
    folder, _, output = runs[fault]
    assert output.count("warning: the server of wandb cannot be used") == 1, output
    assert "wandb sync" in output
    (stored,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert stored.read_bytes().count(b"train/loss") >= STEPS


@pytest.mark.parametrize("fault", ["dies", "answers"])
def test_r29_run_with_a_server_is_stored_too(runs, fault):
    folder, _, output = runs[fault]
    assert "cannot be used" not in output
    (stored,) = folder.glob("wandb/run-*/*.wandb")
    assert stored.read_bytes().count(b"train/loss") >= STEPS


class Hanging(Logger):
    """A tracker that never returns."""

    name = version = "hangs"

    def log_metrics(self, metrics, step=None):
        time.sleep(3600)

    def log_hyperparams(self, params, *args, **kwargs):
        raise AssertionError("nobody calls this")


def test_r29_hanging_tracker_costs_a_step_under_a_tenth_of_a_millisecond(monkeypatch, capsys):
    monkeypatch.setattr("trainer.runtime.tracking.best_effort.END_TIMEOUT_SECONDS", 0.2)
    tracker = BestEffort("hanging", Hanging)
    metrics = {f"train/{number}": 0.5 for number in range(10)}
    start = time.perf_counter()
    for step in range(1_000):
        tracker.log_metrics(metrics, step)
    assert (time.perf_counter() - start) / 1_000 < 1e-4
    tracker.finalize("success")
    assert tracker.has_failed
    assert "tracker hanging failed" in capsys.readouterr().err


def test_r29_calls_that_wait_for_a_hanging_tracker_have_a_limit(capsys):
    tracker = BestEffort("hanging", Hanging)
    for step in range(MAX_WAITING_CALLS + 10):
        tracker.log_metrics({"train/loss": 0.5}, step)
    assert tracker.has_failed
    assert capsys.readouterr().err.count("tracker hanging failed") == 1
