"""The script for the first GPU runs all of its stages in small, on the CPU and on the pretend
device, and continues where it was stopped.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import pytest
import torch
from pretend_device import DEVICE, on_pretend_device

Load = Callable[[str], ModuleType]


def failures(results: dict[str, Any]) -> dict[str, str]:
    return {
        f"{stage}: {name}": result["error"]
        for stage, cases in results.items()
        for name, result in cases.items()
        if isinstance(result, dict) and "error" in result
    }


def test_all_stages_run_in_small_and_once(
    benchmark: Load,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Compiled layers cannot have the shape checks of the tests in them.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    gpu, output = benchmark("gpu"), tmp_path / "results" / "gpu.json"
    words = ["--small", "--output", str(output)]
    results = gpu.main(words)
    assert not failures(results)
    assert list(results) == [stage.name for stage in gpu.STAGES]
    assert all(results.values())
    equality, runs = results["equality"], results["runs"]
    differences = [found for found in equality.values() if "gradient" in found]
    assert len(differences) == 4
    assert max(max(found.values()) for found in differences) < 1e-4
    assert equality["dropout, dot"]["recomputed"] < 1e-5 < 0.1
    assert equality["dropout, dot"]["without dropout"] > 0.1
    assert runs["fit"]["bi-encoder-lora"]["steps"] == 2
    assert runs["two ranks over gloo"]["gradient"] < 1e-5
    assert runs["one rank, fsdp2"]["difference"] < 1e-5
    losses = [found["losses"] for found in results["training"].values() if "losses" in found]
    assert losses[-2] == pytest.approx(losses[-1], abs=2e-3), "one work in other micro-batches"
    assert results["losses"]["error of MaxSim, pieces"]["score"] < 1e-4
    content = json.loads(output.read_text())
    assert content["results"] == json.loads(json.dumps(results))
    assert content["machine"]["torch"] == torch.__version__
    capsys.readouterr()
    assert gpu.main(words) == content["results"]
    counts = [line for line in capsys.readouterr().out.splitlines() if " measured in " in line]
    assert [line.split(": ")[1].split()[0] for line in counts] == ["0"] * len(gpu.STAGES)


def test_stages_run_on_the_pretend_device(benchmark: Load, tmp_path: Path) -> None:
    gpu = benchmark("gpu")
    words = ["--small", "--device", DEVICE, "--output", str(tmp_path / "gpu.json")]
    results = on_pretend_device(gpu.main, words)
    assert not failures(results)
    assert not results.pop("runs"), "the device exists in one process only"
    assert not results.pop("changes"), "nothing can be compiled for it"
    assert all(results.values())
    differences = [found for found in results["equality"].values() if "gradient" in found]
    assert max(max(found.values()) for found in differences) < 1e-4


def test_failed_and_late_measurements_are_made_by_the_next_start(
    benchmark: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    gpu, calls = benchmark("gpu"), list[str]()

    def measure(name: str, is_slow: bool = False, fails: bool = False) -> Callable[[], float]:
        def action() -> float:
            calls.append(name)
            while is_slow and len(calls) < 10:
                torch.ones(100).sum()
            if fails and calls.count(name) == 1:
                raise ValueError("planted")
            return 1.0

        return action

    cases = {
        "first": measure("first"),
        "failing": measure("failing", fails=True),
        "slow": measure("slow", is_slow=True),
        "late": measure("late"),
    }
    monkeypatch.setattr(gpu, "STAGES", (gpu.Stage("planted", 2.0, lambda setting: cases),))
    words = ["--small", "--output", str(tmp_path / "gpu.json")]
    results = gpu.main(words)["planted"]
    assert calls == ["first", "failing", "slow"]
    assert results["first"] == 1.0
    assert "planted" in results["failing"]["error"]
    assert "TimeIsUp" in results["slow"]["error"]
    assert "late skipped, the time of the stage is spent" in capsys.readouterr().out
    calls.extend([""] * 10)
    assert gpu.main(words)["planted"] == dict.fromkeys(cases, 1.0)
    assert calls[13:] == ["failing", "slow", "late"]


def test_missing_gpu_is_named(benchmark: Load, capsys: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as ended:
        benchmark("gpu").main([])
    assert ended.value.code == 2
    assert "there is no GPU here; give --small" in capsys.readouterr().err
