"""Short training runs of the models that were measured, which show how much each gains."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.evaluation.results import BASE, FINE_TUNED, Comparison, Interval
from trainer.evaluation.systems.names import parse_system
from trainer.evaluation.verdict import conclusion
from trainer.recipe.shipped import recipe_file
from trainer.selection.measure import Measurement

_RECIPE = "bi-encoder-lora"


@dataclass(frozen=True)
class Probe:
    """A model before and after a short training with LoRA, on the test queries."""

    model: str
    steps: int
    base: Interval
    fine_tuned: Interval
    comparison: Comparison | None
    """The paired test of the fine-tuned against the base model; None where that one won."""

    def __str__(self) -> str:
        figures = f"{self.base.mean:.3f} to {self.fine_tuned.mean:.3f}"
        interval = f"[{self.fine_tuned.low:.3f}, {self.fine_tuned.high:.3f}]"
        result = "The base model stayed the best." if self.comparison is None else ""
        result = result or conclusion(self.comparison)  # type: ignore[arg-type]
        return f"probe of {self.model}: {figures} {interval} after {self.steps} steps. {result}"


def probe_models(
    measurements: Iterable[Measurement],
    data: str,
    folder: Path,
    steps: int,
    find_model: Callable[[str], str],
    tell: Callable[[str], None],
) -> list[Probe]:
    """Trains each single model among the candidates for some steps, in a process and a run folder
    of its own. A run that fails is named, and the others go on.
    """
    probes = []
    for measurement in measurements:
        name = parse_system(measurement.candidate)
        if name.kind != "model":
            continue
        run = "probe-" + re.sub(r"[^A-Za-z0-9_-]+", "-", measurement.candidate).strip("-")
        words = [
            *(
                "fit",
                str(recipe_file(_RECIPE)),
                "--replace",
                f"model.backbone={find_model(name.value)}",
            ),
            *(f"data.train={data}", f"output={folder}", f"name={run}"),
            *(f"optimization.max_steps={steps}", f"validation.every_steps={max(1, steps // 2)}"),
        ]
        tell(f"training {measurement.candidate} for {steps} steps")
        process = subprocess.run(
            [sys.executable, "-m", "trainer", *words], stdout=subprocess.DEVNULL, check=False
        )
        if process.returncode:
            tell(f"the probe of {measurement.candidate} failed with exit code {process.returncode}")
            continue
        probes.append(_read(measurement.candidate, folder / run, steps))
    if not probes:
        raise BadRecipe(
            "no candidate could be probed: only models are trained, and data must have training"
            " pairs beside the test; see the messages above"
        )
    return sorted(probes, key=lambda probe: -probe.fine_tuned.mean)


def _read(model: str, run: Path, steps: int) -> Probe:
    evaluation = read_evaluation(run / "evaluation.json")
    systems = {system.name: system for system in evaluation.systems}
    base = systems[BASE]
    tests = {(test.baseline, test.system): test for test in evaluation.comparisons}
    fine_tuned = systems.get(FINE_TUNED, base)
    comparison = tests.get((BASE, FINE_TUNED))
    return Probe(model, steps, base.interval(), fine_tuned.interval(), comparison)
