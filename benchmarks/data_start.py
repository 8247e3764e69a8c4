"""How long a run of a million pairs takes from the end of its imports to its first step, and its
peak memory: without the cache of parsed rows, at the first start with it, and at the next start.

Random words, no text twice; LoRA on all-MiniLM-L6-v2, batch 64 of short texts, 100 validation
queries, micro-batches of 512 tokens of which nothing is kept; `trainer.run.run_recipe` itself up to
the end of the first step. The next starts continue the run of the first start (`--resume`).
`--reading 1` reads the rows and selects those of the first batch, without a model: for ten million
rows (`--rows 10000000`).
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring.children import child, run
from measuring.clocks import Clock, memory_megabytes, peak_memory_megabytes
from measuring.data import SEED, TEMPERATURE, model_folder
from measuring.record import noise, save, table

WANTED_SECONDS, WANTED_MEGABYTES = 20.0, 1200.0
BATCH, LENGTH, VALIDATION_QUERIES = 64, 64, 100
TEXTS = 100_000
CACHE = "NEARFAR_CACHE"
COLUMNS = ("seconds", "processor_seconds", "peak_megabytes")


def write_rows(path: Path, count: int) -> None:
    """Pairs of 8 and 41 words. Each text has a number of its own."""
    drawn = random.Random(SEED)
    syllables = [first + second for first in "bcdfghklmnprst" for second in "aeiou"]
    words = ["".join(drawn.choices(syllables, k=drawn.randint(1, 4))) for _ in range(5000)]
    texts = [[" ".join(drawn.choices(words, k=length)) for _ in range(TEXTS)] for length in (7, 40)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            query, positive = (drawn.choice(choice) for choice in texts)
            file.write(f'{{"query": "q{number} {query}", "positive": "p{number} {positive}"}}\n')


def recipe(job: dict[str, Any]) -> Any:
    from trainer.recipe.schema.data import DataSection
    from trainer.recipe.schema.families import BiEncoderRecipe
    from trainer.recipe.schema.machine import MachineSection
    from trainer.recipe.schema.model import BiEncoderModel, LoraTuning
    from trainer.recipe.schema.objective import BiEncoderContrastiveObjective
    from trainer.recipe.schema.training import OptimizationSection

    lengths = {"query_max_length_tokens": LENGTH, "document_max_length_tokens": LENGTH}
    return BiEncoderRecipe(
        name="start",
        output=job["output"],
        seed=SEED,
        model=BiEncoderModel(backbone=job["model"], tuning=LoraTuning(), **lengths),
        data=DataSection(train=job["source"], validation_max_queries=VALIDATION_QUERIES),
        objective=BiEncoderContrastiveObjective(temperature=TEMPERATURE),
        optimization=OptimizationSection(batch_size=BATCH, learning_rate=1e-4, max_steps=100),
        machine=MachineSection(precision="fp32", threads=1, micro_batch_tokens=512, kept_tokens=0),
    )


def measure(job: dict[str, Any]) -> dict[str, Any]:
    os.environ[CACHE] = job["cache"]
    import pytorch_lightning as lightning

    import trainer.run
    from trainer.build.data import data_sets
    from trainer.data.order import batch_samples
    from trainer.errors import Preempted
    from trainer.stopping import Stop, request_stop
    from trainer.strategies.machine.plan import SINGLE

    settings, megabytes, start = recipe(job), memory_megabytes(), Clock.now()
    found: dict[str, Any] = {}

    def note() -> None:
        spent = Clock.now().since(start)
        found["seconds"], found["processor_seconds"] = spent.wall, spent.processor
        found["wait_ratio"] = spent.wait_ratio
        found["imports_megabytes"], found["peak_megabytes"] = megabytes, peak_memory_megabytes()

    if job["reading"]:
        data = data_sets(settings.data, settings.seed)
        train, found["pairs"] = data.train, len(data.known_positives.queries)
        rows = [train[int(sample)] for sample in batch_samples(SEED, 0, len(train), BATCH)]
        assert len(rows) == BATCH
        note()
        return found

    class Watch(lightning.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            if not found:
                note()
                request_stop(Stop.SIGNAL_TERM)  # the run saves a checkpoint and ends

    fit = lightning.Trainer.fit

    def watched_fit(self: Any, *positional: Any, **named: Any) -> None:
        self.callbacks.append(Watch())
        fit(self, *positional, **named)

    lightning.Trainer.fit = watched_fit
    former = trainer.run.Former(replace=not job["resume"], resume=job["resume"])
    try:
        trainer.run.run_recipe(settings, SINGLE, former)
    except Preempted:
        return found
    raise AssertionError("the run was not stopped after its first step")


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="nearfar-start-") as place:
        source, cache = Path(place) / "pairs.jsonl", str(Path(place) / "cache")
        write_rows(source, arguments.rows)
        job = {"source": str(source), "output": place, "reading": arguments.reading}
        job["resume"] = False
        job["model"] = "" if arguments.reading else model_folder()
        starts = {
            "first start": [{**job, "cache": cache}],
            "next start": [{**job, "cache": cache, "resume": True}] * arguments.turns,
        }
        if not arguments.reading:
            starts = {"without the cache": [{**job, "cache": "off"}], **starts}
        size = source.stat().st_size / 2**20
        results = {
            name: [child(__file__, one, timeout_seconds=7200) for one in jobs]
            for name, jobs in starts.items()
        }
    print_results(arguments, results, size)


def print_results(
    arguments: argparse.Namespace, results: dict[str, list[dict[str, Any]]], size: float
) -> None:
    worst = {
        name: [max(one[key] for one in turns) for key in COLUMNS] for name, turns in results.items()
    }
    seconds, _, megabytes = worst["next start"]
    reached = seconds <= WANTED_SECONDS and megabytes <= WANTED_MEGABYTES
    end = "the first batch, without a model" if arguments.reading else "the first step"
    text = table(
        f"from the end of the imports to {end}: {arguments.rows:,} pairs, {size:,.0f} MB of JSON"
        f" Lines; at most {WANTED_SECONDS:g} s and {WANTED_MEGABYTES:,.0f} MB wanted at the next"
        f" start: {'reached' if reached else 'MISSED'}",
        ["", "seconds", "processor s", "peak MB", "MB after imports"],
        [
            [
                name,
                f"{worst[name][0]:.1f}",
                f"{worst[name][1]:.1f}",
                f"{worst[name][2]:,.0f}",
                f"{turns[0]['imports_megabytes']:,.0f}",
            ]
            for name, turns in results.items()
        ],
    )
    waits = [one["wait_ratio"] for turns in results.values() for one in turns]
    claim = f"data-start-{arguments.rows // 1000}k" + ("-reading" if arguments.reading else "")
    save(claim, f"{text}\n{noise(waits)}", results)


if __name__ == "__main__":
    run(__file__, measure, main, rows=1_000_000, turns=3, reading=0)
    sys.stdout.flush()
    os._exit(0)  # threads of the run that was stopped may still work
