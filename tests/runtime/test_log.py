"""log.jsonl: strict JSON, on disk at once, and never in the way of training."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from trainer.runtime.log import JsonlLogger
from trainer.runtime.log_file import read_log


def test_record_is_one_line_on_disk_before_the_call_returns(tmp_path):
    logger = JsonlLogger(tmp_path / "log.jsonl")
    logger.log_metrics({"train/loss": 0.5, "epoch": 0}, 0)
    (record,) = read_log(tmp_path / "log.jsonl")
    assert {name: record[name] for name in ("step", "train/loss", "epoch")} == {
        "step": 0,
        "train/loss": 0.5,
        "epoch": 0,
    }
    logger.log_metrics({"validation/ndcg@10": torch.tensor(0.25)}, 1)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert record["time_seconds"] >= 0


def test_non_finite_numbers_are_strict_json_and_named(tmp_path):
    logger = JsonlLogger(tmp_path / "log.jsonl")
    logger.log_metrics(
        {
            "train/loss": float("nan"),
            "train/gradient_norm": torch.tensor(float("inf")),
            "train/learning_rate": 1e-3,
        },
        7,
    )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert record["train/loss"] is None
    assert record["train/gradient_norm"] is None
    assert record["non_finite"] == ["train/loss", "train/gradient_norm"]
    assert record["train/learning_rate"] == 1e-3


def test_log_survives_a_kill(tmp_path):
    program = """
import os, pathlib, sys
from trainer.runtime.log import JsonlLogger
logger = JsonlLogger(pathlib.Path(sys.argv[1]))
for step in range(100):
    logger.log_metrics({"train/loss": 1.0}, step)
os.kill(os.getpid(), 9)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log.jsonl")],
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert result.returncode == -9
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == list(range(100))


@pytest.mark.skipif(
    not Path("/dev/full").exists(),
    reason="this system has no /dev/full, the disk that is always full",
)
def test_full_disk_is_reported_once_and_training_continues(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    logger = JsonlLogger(tmp_path / "log.jsonl")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(3):
            logger.log_metrics({"train/loss": 1.0}, step)
    (warning,) = caught
    assert "No space left" in str(warning.message)
    assert "training continues" in str(warning.message)


def test_record_after_a_truncated_one_starts_on_its_own_line(tmp_path):
    """The size limit of the process stands in for a disk with a few bytes left: the kernel cuts the
    write.
    """
    program = """
import pathlib, resource, signal, sys, warnings
warnings.simplefilter("ignore")
from trainer.runtime.log import JsonlLogger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logger = JsonlLogger(pathlib.Path(sys.argv[1]))
logger.log_metrics({"train/loss": 1.0}, 0)
size = pathlib.Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
logger.log_metrics({"train/loss": 1.0}, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
logger.log_metrics({"train/loss": 1.0}, 2)
"""
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log.jsonl")],
        cwd=Path(__file__).parents[2],
        timeout=120,
        check=True,
    )
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [0, 2]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_number_of_open_files_is_constant(tmp_path):
    logger = JsonlLogger(tmp_path / "log.jsonl")
    logger.log_metrics({"train/loss": 1.0}, 0)
    before = open_files()
    for step in range(1000):
        logger.log_metrics({"train/loss": 1.0}, step)
    assert open_files() == before
    logger.finalize("success")
    logger.log_metrics({"train/loss": 2.0}, 1000)
    assert len(read_log(tmp_path / "log.jsonl")) == 1002
