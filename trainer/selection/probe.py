"""Short training runs of the models that were measured, which show how much each gains."""

import json
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation
from trainer.evaluation.judged_data import LocalData
from trainer.evaluation.results import BASE, FINE_TUNED, Comparison, Interval
from trainer.evaluation.systems.names import parse_system
from trainer.evaluation.verdict import conclusion
from trainer.pipeline.process import Relay, run_on_terminal
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


def check_has_training_split(data: LocalData) -> None:
    """Raises BadRecipe if the data have no training split beside the queries that are measured."""
    if data.split != "test":
        raise BadRecipe(
            f"--probe measures the test split, and --split is {data.split}; leave one of them out"
        )
    if Path(data.source).is_file():
        raise BadRecipe(
            f"--probe trains on the training split of --data, and {data.source} is one file: it"
            " would train on the test queries. Give a folder with the splits train and test"
            " (`nearfar data split` writes one) or a hub data set"
        )


def probe_models(
    measurements: Iterable[Measurement],
    data: LocalData,
    folder: Path,
    steps: int,
    find_model: Callable[[str], str],
    tell: Callable[[str], None],
) -> list[Probe]:
    """Trains each single model among the candidates for some steps, in a process and a run folder
    of its own. A run that fails is named, and the others go on. A signal is forwarded to the run;
    then Interrupted or Preempted is raised.
    """
    probes = []
    names = [measurement.candidate for measurement in measurements]
    with Relay() as relay:
        for name in names:
            if parse_system(name).kind != "model":
                continue
            run = "probe-" + re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
            words = _fit_words(find_model(name), data, steps)
            tell(f"training {name} for {steps} steps")
            code = run_on_terminal(
                [*words, f"output={folder}", f"name={run}"], relay, stdout=subprocess.DEVNULL
            )
            relay.check(f"at the probe of {name}", f"the result before it is in {folder}")
            if code:
                tell(f"the probe of {name} failed with exit code {code}")
                continue
            probes.append(_read(name, folder / run, steps))
    if not probes:
        raise BadRecipe(
            "no candidate could be probed: only models are trained, and data must have training"
            " pairs beside the test; see the messages above"
        )
    return sorted(probes, key=lambda probe: -probe.fine_tuned.mean)


def _fit_words(model: str, data: LocalData, steps: int) -> list[str]:
    """Returns the words of a short `nearfar fit` with the data that were measured."""
    return [
        *("fit", str(recipe_file(_RECIPE)), "--replace", f"model.backbone={model}"),
        *(f"data.train={data.source}", f"data.test={data.source}"),
        *([f"data.corpus={data.corpus}"] if data.corpus is not None else []),
        f"data.columns={json.dumps(dict(data.columns))}",
        *(f"optimization.max_steps={steps}", f"validation.every_steps={max(1, steps // 2)}"),
    ]


def _read(model: str, run: Path, steps: int) -> Probe:
    evaluation = read_evaluation(run / "evaluation.json")
    systems = {system.name: system for system in evaluation.systems}
    base = systems[BASE]
    tests = {(test.baseline, test.system): test for test in evaluation.comparisons}
    fine_tuned = systems.get(FINE_TUNED, base)
    comparison = tests.get((BASE, FINE_TUNED))
    return Probe(model, steps, base.interval(), fine_tuned.interval(), comparison)
