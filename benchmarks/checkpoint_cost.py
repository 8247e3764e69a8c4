"""What a checkpoint costs: how long a step waits for it (stall), how much longer the run takes, its
bytes, and the seconds until it is published.

The quickstart's model and batch on azure-cli, with all weights trained and with LoRA;
`trainer.run.run_recipe` itself. Runs that save every second step take turns with runs that do not
save. The difference, divided by the number of saves, is the cost of one save: waiting, copying,
hashing and writing while the next steps are computed. It is compared with 100 steps.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from measuring.children import child, run
from measuring.clocks import Clock
from measuring.data import SEED, TEMPERATURE, model_folder, present, write_pairs
from measuring.record import noise, save, spread, table

WANTED_STALL_SECONDS, WANTED_PERCENT = 1.0, 1.0
INTERVAL, MEASURED_INTERVAL = 100, 2
TUNINGS = ("full", "lora")
STALL = "checkpoint/stall_seconds"


def recipe(job: dict[str, Any]) -> Any:
    from trainer.recipe.schema.data import DataSection
    from trainer.recipe.schema.families import BiEncoderRecipe
    from trainer.recipe.schema.machine import CheckpointSection, MachineSection
    from trainer.recipe.schema.model import BiEncoderModel, FullTuning, LoraTuning
    from trainer.recipe.schema.objective import BiEncoderContrastiveObjective
    from trainer.recipe.schema.training import OptimizationSection

    tuning = LoraTuning() if job["tuning"] == "lora" else FullTuning()
    return BiEncoderRecipe(
        name="run",
        output=job["output"],
        seed=SEED,
        model=BiEncoderModel(backbone=job["model"], tuning=tuning),
        data=DataSection(train=job["source"], validation_max_queries=8),
        objective=BiEncoderContrastiveObjective(temperature=TEMPERATURE),
        optimization=OptimizationSection(
            batch_size=job["batch"], learning_rate=1e-4, max_steps=job["steps"]
        ),
        machine=MachineSection(threads=job["threads"] or None),
        checkpoints=CheckpointSection(
            every_minutes=None, every_steps=MEASURED_INTERVAL if job["saving"] else None
        ),
    )


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Measures the steps after the first, until their last save is published."""
    import pytorch_lightning as lightning

    import trainer.run
    from trainer.checkpoints.callback import SaveCheckpoints
    from trainer.checkpoints.writer import CheckpointWriter, Save

    saves: list[Save] = []
    finish = CheckpointWriter._finish

    def watched_finish(self: Any, *arguments: Any) -> None:
        finish(self, *arguments)
        saves.append(self.last)

    CheckpointWriter._finish = watched_finish  # type: ignore[method-assign]
    result: dict[str, Any] = {"steps": job["steps"]}

    class Watch(lightning.Callback):
        def on_train_batch_end(self, lightning_trainer: Any, *_: Any) -> None:
            if lightning_trainer.global_step == 1:
                self.start = Clock.now()
            if lightning_trainer.global_step == job["steps"]:
                callbacks = lightning_trainer.callbacks
                (saving,) = (one for one in callbacks if isinstance(one, SaveCheckpoints))
                saving.writer.wait()
                spent = Clock.now().since(self.start)
                result["seconds"], result["processor_seconds"] = spent.wall, spent.processor
                result["wait_ratio"] = spent.wait_ratio
                result["published_seconds"] = [one.seconds for one in saves]
                result["errors"] = [one.error for one in saves if one.error]
                result["bytes"] = [one.bytes for one in saves]

    fit = lightning.Trainer.fit

    def watched_fit(self: Any, *positional: Any, **named: Any) -> None:
        self.callbacks.append(Watch())
        fit(self, *positional, **named)

    lightning.Trainer.fit = watched_fit
    with tempfile.TemporaryDirectory(dir=job["place"]) as output:
        trainer.run.run_recipe(recipe({**job, "output": output}))
        lines = (Path(output) / "run/log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    stalls = [
        one["checkpoint/stall_seconds"] for one in records if "checkpoint/stall_seconds" in one
    ]
    result["stall_seconds"] = stalls[
        : len(result["bytes"])
    ]  # without the last, which is waited for
    assert not result["errors"], result["errors"]
    assert bool(result["bytes"]) == job["saving"]
    return result


def main(arguments: argparse.Namespace) -> None:
    source = present("azure-cli")
    if source is None:
        return
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory(prefix="nearfar-checkpoints-") as place:
        pairs = Path(place) / "pairs.jsonl"
        write_pairs(source, arguments.steps + 1, arguments.batch, pairs)
        job = {**vars(arguments), "source": str(pairs), "place": place, "model": model_folder()}
        for turn in range(arguments.turns):
            for tuning in TUNINGS:
                for saving in (False, True):
                    one = child(
                        __file__, {**job, "tuning": tuning, "saving": saving}, timeout_seconds=3600
                    )
                    turns = results.setdefault(tuning, {"without": [], "saving": []})
                    turns["saving" if saving else "without"].append(one)
                    print(f"turn {turn + 1} {tuning} {saving=}: {one['seconds']:.1f} s", flush=True)
    print_results(arguments, results)


def print_results(
    arguments: argparse.Namespace, results: dict[str, dict[str, list[dict[str, Any]]]]
) -> None:
    rows, missed = [], []
    for tuning, turns in results.items():
        step = statistics.median(one["seconds"] for one in turns["without"]) / (arguments.steps - 1)
        wall, processor = (_percents(turns, key) for key in ("seconds", "processor_seconds"))
        stalls = [one for turn in turns["saving"] for one in turn["stall_seconds"]]
        published = [one for turn in turns["saving"] for one in turn["published_seconds"]]
        size = turns["saving"][0]["bytes"][0]
        if statistics.median(processor) > WANTED_PERCENT or max(stalls) > WANTED_STALL_SECONDS:
            missed.append(tuning)
        rows.append(
            [
                tuning,
                f"{step:.2f}",
                spread(stalls, 3),
                spread(published, 2),
                f"{size / 1e6:.1f}",
                spread(wall, 2),
                spread(processor, 2),
            ]
        )
    text = table(
        f"a checkpoint every {INTERVAL} steps: at most {WANTED_PERCENT:g} % of the run's processor"
        f" time and a stall of {WANTED_STALL_SECONDS:g} s wanted:"
        f" {'MISSED by ' + ', '.join(missed) if missed else 'reached'}",
        [
            "",
            "s per step",
            "stall, s",
            "published after, s",
            "MB",
            "% of wall clock",
            "% of processor time",
        ],
        rows,
    )
    every = [one for turns in results.values() for way in turns.values() for one in way]
    save("checkpoint-cost", f"{text}\n{noise([one['wait_ratio'] for one in every])}", results)


def _percents(turns: dict[str, list[dict[str, Any]]], key: str) -> list[float]:
    """The cost of one save per turn, as a percentage of INTERVAL steps."""
    return [
        100.0
        * (saving[key] - without[key])
        / len(saving["bytes"])
        / (INTERVAL * without[key] / (without["steps"] - 1))
        for without, saving in zip(turns["without"], turns["saving"], strict=True)
    ]


if __name__ == "__main__":
    run(__file__, measure, main, steps=9, batch=128, turns=3, threads=0)
