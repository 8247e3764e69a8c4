"""The promise, from the outside: one recipe by any machine file is one loss curve."""

import json
from pathlib import Path

import forked
import pytest

REPOSITORY = Path(__file__).parents[2]
STEPS = 6

pytestmark = pytest.mark.slow


def curve(machine, toy_run):
    """Loss and gradient norm of every step."""
    arguments, folder = toy_run
    ended = forked.nearfar(
        "launch",
        "recipes/quickstart.yaml",
        "--machine",
        f"launch/accelerate/{machine}.yaml",
        *arguments,
        "--replace",
        folder=REPOSITORY,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stderr.count("the model is in") == 1  # one rank speaks
    assert (folder / "model/model.safetensors").is_file()
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [
        (line["train/loss"], line["train/gradient_norm"]) for line in lines if "train/loss" in line
    ]


def test_recipe_has_one_curve_on_all_machine_files(toy_run):
    alone = curve("cpu-1", toy_run)
    assert len(alone) == STEPS
    assert alone[-1][0] < alone[0][0]
    for machine in ("cpu-2-ddp", "cpu-2-fsdp2", "cpu-2-zero3"):
        together = curve(machine, toy_run)
        assert len(together) == STEPS
        for step, (here, there) in enumerate(zip(alone, together, strict=True)):
            assert there == pytest.approx(here, rel=1e-5), f"{machine}, step {step}"
