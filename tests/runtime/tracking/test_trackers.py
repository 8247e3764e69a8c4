"""Trackers: what they write, and that they cannot harm a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytorch_lightning.loggers import Logger

from trainer.errors import BadRecipe
from trainer.recipe.schema.machine import TensorboardTracker, WandbTracker
from trainer.runtime.tracking import trackers
from trainer.runtime.tracking.best_effort import BestEffort
from trainer.runtime.tracking.trackers import check_trackers, has_wandb_key, tracker_loggers


class Dies(Logger):
    """A tracker whose server goes away after the second record."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    name = version = "dies"

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        if self.calls == 2:
            raise ConnectionError("the server at https://me:secret-word@host went away")

    def log_hyperparams(self, params, *args, **kwargs):
        raise AssertionError("must not be called once the tracker has failed")


def test_tracker_that_fails_is_named_once_and_not_used_again(capsys):
    inner = Dies()
    logger = BestEffort("dies", lambda: inner)
    for step in range(5):
        logger.log_metrics({"train/loss": 1.0}, step)
    logger.log_hyperparams({"a": 1})
    logger.finalize("success")
    assert inner.calls == 2
    warning = capsys.readouterr().err
    assert warning.count("tracker dies failed") == 1
    assert "secret-word" not in warning


def test_tracker_that_cannot_be_created_does_not_stop_the_run(capsys):
    def fail() -> Logger:
        raise RuntimeError("no server")

    logger = BestEffort("remote", fail)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finalize("success")
    assert logger.has_failed
    assert "no server" in capsys.readouterr().err


def test_tensorboard_writes_metrics_and_recipe_into_the_run_folder(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logger,) = tracker_loggers(
        (TensorboardTracker(),), tmp_path, "a-run", {"optimization": {"learning_rate": 1e-3}}
    )
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0 - step / 10}, step)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [round(event.value, 6) for event in events.Scalars("train/loss")] == [1.0, 0.9, 0.8]
    assert "learning_rate" in (tmp_path / "tensorboard" / "hparams.yaml").read_text()


def test_missing_package_is_named_with_advice(monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(BadRecipe, match=r"tensorboard.*pip install tensorboard"):
        check_trackers((TensorboardTracker(),))
    with pytest.raises(BadRecipe, match="pip install wandb"):
        tracker_loggers((WandbTracker(),), tmp_path, "a-run", {})
    assert list(tmp_path.iterdir()) == []


def test_key_is_read_from_the_environment_and_netrc(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    assert not has_wandb_key()
    file.write_text("machine api.wandb.ai login user password " + "k" * 40 + "\n")
    file.chmod(0o600)
    assert has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert has_wandb_key()


WANDB_RUN = """
import sys
from pathlib import Path
from trainer.recipe.schema.machine import WandbTracker
from trainer.runtime.tracking.trackers import tracker_loggers
folder = Path(sys.argv[1])
(logger,) = tracker_loggers((WandbTracker(project="tests"),), folder, "a-run", {"seed": 13})
for step in range(3):
    logger.log_metrics({"train/loss": 1.0 - step / 10}, step)
logger.finalize("success")
assert not logger.has_failed
print("ended")
"""


def run_wandb(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    command = [sys.executable, "-W", "always", "-c", WANDB_RUN, str(folder)]
    return subprocess.run(
        command,
        env={**clean, "HOME": str(folder.parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_wandb_without_a_key_is_offline_and_in_the_run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    result = run_wandb(folder)
    assert "ended" in result.stdout.splitlines(), result.stderr
    (offline,) = (folder / "wandb").glob("offline-run-*")
    (log,) = offline.glob("*.wandb")
    assert b"train/loss" in log.read_bytes()
    names = {path.name for path in offline.rglob("*") if path.is_file()}
    assert not names & {"requirements.txt", "wandb-metadata.json", "output.log"}, names
