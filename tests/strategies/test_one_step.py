"""A step under every strategy, started as people start it: the gradient is that of one process, and
what is saved is whole.

Each machine file is launched once, with real processes; the rest looks at what its ranks wrote
down.
"""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix import TEMPERATURE, batch_of, encoder_of, likeness, objective_of, trained
from strategies.one_step import CASES

from trainer.strategies.machine.machine_file import plan_from_file

MACHINES = {
    name: f"launch/accelerate/cpu-2-{name}.yaml" for name in ("ddp", "fsdp2", "zero1", "zero2")
}
MACHINES["zero3"] = "tests/strategies/cpu-2-zero3-nothing-whole.yaml"
MACHINES["hsdp"] = "tests/strategies/cpu-4-hsdp.yaml"
EXACT = [name for name in CASES if name not in ("bf16", "non-finite")]


@pytest.fixture(scope="module")
def launched(toy_folder, repository, tmp_path_factory):
    """Machine to what each rank saw, and what was printed; launched when first asked for."""
    seen: dict[str, tuple[list[dict[str, Any]], str]] = {}

    def of(machine: str) -> tuple[list[dict[str, Any]], str]:
        if machine.startswith("zero"):
            pytest.importorskip("deepspeed")
        if machine not in seen:
            output = tmp_path_factory.mktemp(machine)
            done = launch(repository, MACHINES[machine], str(toy_folder("bert")), str(output))
            assert done.returncode == 0, done.stderr[-3000:]
            files = sorted(output.glob("rank-*.pt"))
            assert len(files) == plan_from_file(Path(MACHINES[machine])).ranks
            seen[machine] = [torch.load(file, weights_only=True) for file in files], done.stderr
        return seen[machine]

    return of


def launch(repository: Path, machine: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of one_step.py."""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        machine,
        "tests/strategies/one_step.py",
        *arguments,
    ]
    paths = os.pathsep.join([str(repository / "tests"), str(repository)])
    return subprocess.run(
        command,
        cwd=repository,
        env=os.environ | {"PYTHONPATH": paths, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def alone(toy_folder):
    """Case to the gradient of one process, by name."""
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}

    def of(case: str) -> dict[str, torch.Tensor]:
        score, tuning = CASES[case].get("score", "dot"), CASES[case]["tuning"]
        if (score, tuning) not in found:
            encoder = encoder_of(toy_folder("bert"), score, tuning)
            log_temperature = torch.tensor([TEMPERATURE]).log().requires_grad_()
            loss = objective_of("contrastive", score)(
                batch_of(encoder), encoder, log_temperature.exp()[0]
            ).loss
            places = {
                f"encoder.{name}": parameter for name, parameter in trained(encoder).items()
            } | {"log_temperature": log_temperature}
            gradients = torch.autograd.grad(
                loss, list(places.values()), allow_unused=True, materialize_grads=True
            )
            found[score, tuning] = {
                name: gradient.double() for name, gradient in zip(places, gradients, strict=True)
            }
        return found[score, tuning]

    return of


def together(gradients: dict[str, torch.Tensor], order: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradients[name].flatten() for name in order])


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("machine", MACHINES)
def test_gradient_equals_that_of_one_process(launched, alone, machine, case):
    wanted = alone(case)
    for of_rank in launched(machine)[0]:
        found = of_rank[case]
        assert found["gradient"].keys() == wanted.keys(), "what is trained, under its own name"
        assert {name: value.shape for name, value in found["gradient"].items()} == {
            name: value.shape for name, value in wanted.items()
        }
        whole = together(wanted, wanted)
        norm, turned = likeness(together(found["gradient"], wanted), whole)
        length = float(whole.norm())
        assert norm == pytest.approx(
            CASES[case].get("clip", length) / length, rel=2e-5 if "clip" in CASES[case] else 1e-5
        )
        assert turned < 1e-10 / 2
        assert found["norm"] == pytest.approx(length, rel=1e-5), (
            "before clipping, the same on every rank"
        )


@pytest.mark.parametrize("machine", MACHINES)
def test_half_precision_is_the_same_with_all_strategies(launched, alone, machine):
    exact = alone("bf16")
    whole = together(exact, exact)
    found, reference = (
        together(launched(name)[0][0]["bf16"]["gradient"], exact) for name in (machine, "ddp")
    )
    rounding = float((reference - whole).norm())
    assert rounding > 1e-3 * float(whole.norm()), "else nothing ran in bf16"
    # Mostly equal to the last bit. But a strategy may lay a weight at another address, where a sum
    # of float32 rounds the other way and a bf16
    # number beside it moves by 2^-8 of itself: small against what bf16 costs all over.
    # Other ranks have other micro-batches, which round differently.
    as_many_ranks = len(launched(machine)[0]) == len(launched("ddp")[0])
    assert float((found - reference).norm()) < rounding / (20 if as_many_ranks else 5)


@pytest.mark.parametrize("machine", MACHINES)
def test_non_finite_gradient_stops_before_the_update(launched, machine):
    for of_rank in launched(machine)[0]:
        assert of_rank["non-finite"]["refused"] == "the gradient is not finite"
        assert of_rank["non-finite"]["unchanged"]
        assert not of_rank["lora, whole"]["unchanged"]


@pytest.mark.parametrize("machine", MACHINES)
def test_weights_are_gathered_with_their_names(launched, machine):
    for of_rank in launched(machine)[0]:
        for case in CASES:
            assert set(of_rank[case]["names"]) <= set(of_rank[case]["all_names"])


@pytest.mark.parametrize("machine", MACHINES)
def test_vectors_before_training_are_the_same(launched, machine):
    """Validation goes through the strategy before and after training; before it, the model is the
    base model on all of them.
    """
    queries = []
    for name in (machine, "ddp"):
        vectors = [of_rank["lora, whole"]["vectors"] for of_rank in launched(name)[0]]
        queries.append(torch.cat([before for before, _ in vectors]))
        assert not any(torch.allclose(before, after) for before, after in vectors)
    torch.testing.assert_close(*queries)


@pytest.mark.parametrize("machine", MACHINES)
def test_plan_of_the_ranks_is_that_of_the_file(launched, repository, monkeypatch, machine):
    monkeypatch.chdir(repository)
    assert launched(machine)[0][0]["plan"] == asdict(plan_from_file(Path(MACHINES[machine])))


@pytest.mark.parametrize("machine", MACHINES)
def test_ranks_end_without_messages(launched, machine):
    printed = launched(machine)[1]
    assert "destroy_process_group" not in printed
    assert "resource_tracker" not in printed
