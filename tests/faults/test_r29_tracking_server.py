"""R29: a tracking server that refuses connections, hangs, dies or refuses-the-key costs a run
nothing: no step waits for it, the log is complete, and the run can be sent to it later.
"""

import json
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec

import pytest
import wandb  # noqa: F401  # once here, and not in every fork
from forked import nearfar
from tracking_server import tracking_server

from trainer.recipe.schema.trackers import MlflowTracker
from trainer.tracking.best_effort import MAX_WAITING_CALLS, BestEffort
from trainer.tracking.kinds import wandb_run
from trainer.tracking.tracked_run import Description, Results

KEY = "c4nary" * 7
STEPS = 20
FAULTS = ("refuses-connections", "hangs", "refuses-the-key", "dies", "answers")
CONNECT_SECONDS = 5.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory, toy_folder):
    """For each fault a real run, all at the same time: the folder, exit code and messages."""
    folder = tmp_path_factory.mktemp("r29")
    rows = [{"query": f"disk {number}", "positive": f"size {number}"} for number in range(200)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "model.backbone": toy_folder("bert"),
        "data.train": folder / "train.jsonl",
        "data.validation_ratio": 0.2,
        "output": folder,
        "trackers": "[{kind: wandb, project: tests, artifacts: false}]",
        "optimization.batch_size": 8,
        "optimization.epochs": STEPS * 8 // 160,
        "optimization.warmup_steps": 0,
        "machine.accelerator": "cpu",
        "machine.threads": 1,
    }
    words = [f"{key}={value}" for key, value in settings.items()]

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for name in filter(lambda name: name.startswith("WANDB"), [*os.environ]):
            patch.delenv(name)
        patch.setattr(wandb_run, "CONNECT_TIMEOUT_SECONDS", CONNECT_SECONDS)  # the forks have it
        urls = {
            fault: stack.enter_context(tracking_server(fault)).url
            for fault in FAULTS
            if fault != "refuses-connections"
        }
        urls["refuses-connections"] = "http://127.0.0.1:9"
        forks = multiprocessing.get_context("fork")
        pool = stack.enter_context(ProcessPoolExecutor(len(FAULTS), forks))
        processes = {
            fault: pool.submit(
                nearfar,
                *("fit", "bi-encoder-lora", *words, f"name={fault}"),
                environment={"HOME": str(folder), "WANDB_API_KEY": KEY, "WANDB_BASE_URL": url},
            )
            for fault, url in urls.items()
        }
        results = {fault: process.result() for fault, process in processes.items()}
    return {
        fault: (folder / fault, result.returncode, result.stdout + result.stderr)
        for fault, result in results.items()
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
    last, last_of_healthy = steps[-1]["time_seconds"], healthy[-1]["time_seconds"]
    assert last < last_of_healthy + CONNECT_SECONDS - 1, "a step has waited"


@pytest.mark.parametrize("fault", FAULTS[:3])
def test_r29_run_without_a_server_is_stored_to_be_sent_later(runs, fault):
    folder, _, output = runs[fault]
    assert output.count("warning: the server of wandb cannot be used") == 1, output
    assert f"nearfar sync {folder}" in output
    (stored,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert stored.read_bytes().count(b"train/loss") >= STEPS


@pytest.mark.parametrize("fault", ["dies", "answers"])
def test_r29_run_with_a_server_is_stored_too(runs, fault):
    folder, _, output = runs[fault]
    assert "cannot be used" not in output
    (stored,) = folder.glob("wandb/run-*/*.wandb")
    assert stored.read_bytes().count(b"train/loss") >= STEPS


class Hanging:
    """A run of a tracker that never returns."""

    def log(self, values, step, timestamp):
        time.sleep(3600)

    def end(self, results, is_done):
        raise AssertionError("nobody calls this")


def seconds_of_a_call(tracker):
    """The median over 1 000 steps: a busy machine delays some."""
    metrics, seconds = {f"train/{number}": 0.5 for number in range(10)}, []
    for step in range(1_000):
        start = time.perf_counter()
        tracker.log_metrics(metrics, step)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def test_r29_hanging_tracker_costs_a_step_under_a_tenth_of_a_millisecond(capsys):
    tracker = BestEffort("hanging", Hanging)
    assert seconds_of_a_call(tracker) < 1e-4
    tracker.end(Results, is_done=True)
    tracker.wait(time.monotonic() + 0.2)
    assert tracker.has_failed
    assert "tracker hanging failed" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow")
@pytest.mark.parametrize("fault", ["refuses-connections", "hangs"])
def test_r29_mlflow_without_its_server_costs_a_step_nothing(fault, capsys, tmp_path):
    from trainer.tracking.kinds.mlflow_run import MlflowRun

    description = Description("id", "run", tmp_path, {})
    with ExitStack() as stack:
        url = "http://127.0.0.1:9"
        if fault == "hangs":
            url = stack.enter_context(tracking_server("hangs")).url
        settings = MlflowTracker(tracking_uri=url)
        tracker = BestEffort("mlflow", lambda: MlflowRun(settings, description))
        assert seconds_of_a_call(tracker) < 1e-3
        tracker.end(Results, is_done=True)
        tracker.wait(time.monotonic() + 0.2, 60.0)
    assert tracker.has_failed
    assert capsys.readouterr().err.count("tracker mlflow failed") == 1


def test_r29_calls_that_wait_for_a_hanging_tracker_have_a_limit(capsys):
    tracker = BestEffort("hanging", Hanging)
    for step in range(MAX_WAITING_CALLS + 10):
        tracker.log_metrics({"train/loss": 0.5}, step)
    assert tracker.has_failed
    assert capsys.readouterr().err.count("tracker hanging failed") == 1
