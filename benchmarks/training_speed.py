"""Training: pairs per second, peak memory and time to the first step, against
sentence-transformers' own trainer.

Same rows in the same order, same model, same LoRA (or all weights), batch, loss, optimizer,
lengths; no evaluation, nothing saved. A batch above 64 (`--batch 1024`) they compute with their
cached loss, in mini-batches of 32 as it comes; ours by its defaults. Ours runs as `nearfar fit`
does. The losses of every step must agree in float32 to 1e-5, or the script ends with an error.
`--former FOLDER` also measures the code of that checkout.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measuring import their_training
from measuring.children import run
from measuring.contest import Results, former_jobs, on_each_set, speed_rows, take_turns
from measuring.data import (
    TEMPERATURE,
    columns,
    exchange_adapter,
    model_folder,
    training_files,
)
from measuring.record import noise, table
from measuring.training import Record, largest_difference, shared_sections, train_ours

CONTENDERS = {
    "nearfar fp32": ("ours", "fp32"),
    "sentence-transformers fp32": ("theirs", "fp32"),
    "nearfar default": ("ours", "auto"),
    "sentence-transformers bf16": ("theirs", "bf16"),
}
BATCH_SIZE, STEPS, LARGE_STEPS = 64, {"azure-cli": 10, "pycode": 5}, 3
LEARNING_RATE = 1e-4
RANK, ALPHA = 32, 64.0
LAYERS = r"encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|(attention\.output|intermediate|output)\.dense)"  # noqa: E501 - one pattern


def our_recipe(job: dict[str, Any]) -> Any:
    from trainer.recipe.schema.families import BiEncoderRecipe
    from trainer.recipe.schema.model import BiEncoderModel, FullTuning, LoraTuning
    from trainer.recipe.schema.objective import BiEncoderContrastiveObjective

    tuning: Any = LoraTuning(rank=RANK, alpha=ALPHA) if job["tuning"] == "lora" else FullTuning()
    return BiEncoderRecipe(
        **shared_sections(job, LEARNING_RATE),
        model=BiEncoderModel(backbone=job["model"], tuning=tuning),
        objective=BiEncoderContrastiveObjective(temperature=TEMPERATURE),
    )


def measure_ours(job: dict[str, Any]) -> dict[str, Any]:
    def start(encoder: Any) -> None:
        if job["adapter"]:
            exchange_adapter(encoder.backbone, Path(job["adapter"]))

    return train_ours(our_recipe(job), job, start)


def measure_theirs(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    model = SentenceTransformer(
        job["model"],
        device="cpu",
        config_kwargs=their_training.NO_DROPOUT,
    )
    if job["tuning"] == "lora":
        from peft import LoraConfig

        model.add_adapter(
            LoraConfig(
                r=RANK,
                lora_alpha=ALPHA,
                lora_dropout=0.0,
                target_modules=LAYERS,
                task_type="FEATURE_EXTRACTION",
            )
        )
        exchange_adapter(model[0].auto_model, Path(job["adapter"]))
    record = Record(job)

    is_large = job["batch"] > BATCH_SIZE
    loss = CachedMultipleNegativesRankingLoss if is_large else MultipleNegativesRankingLoss
    arguments = SentenceTransformerTrainingArguments(
        **their_training.arguments(job, DefaultBatchSampler, LEARNING_RATE)
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns(job["ordered"])),
        loss=their_training.recording(loss, record)(model, scale=1 / TEMPERATURE),
        callbacks=[their_training.watch(record)],
    )
    trainer.train()
    return {**record.result(), "precision": job["precision"]}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    return measure_ours(job) if job["who"] == "ours" else measure_theirs(job)


def compare(name: str, source: Path, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Every contender, `turns` times in turn, on one data set."""
    large = arguments.batch > BATCH_SIZE
    asked = (arguments.steps if name == "azure-cli" else arguments.long_steps) or (
        LARGE_STEPS if large else STEPS[name]
    )
    with tempfile.TemporaryDirectory(prefix="nearfar-speed-") as temporary:
        folder = Path(temporary)
        files = training_files(folder, source, asked, arguments.batch)
        steps, warm_up = files["steps"], 1 if large else 2
        if steps <= warm_up:
            raise SystemExit(
                f"{steps} steps of {arguments.batch} pairs on {name}, of which {warm_up} are"
                " warm-up: nothing to measure; ask for more steps"
            )
        same = {
            **files,
            "folder": temporary,
            "model": model_folder(),
            "warm_up_steps": warm_up,
            "batch": arguments.batch,
            "tuning": arguments.tuning,
            "threads": arguments.threads,
            "adapter": str(folder / "adapter.safetensors") if arguments.tuning == "lora" else "",
        }
        jobs = {
            contender: {**same, "who": who, "precision": precision}
            for contender, (who, precision) in CONTENDERS.items()
            if arguments.only in ("all", precision)
        }
        jobs |= former_jobs(jobs, arguments.former)
        results = take_turns(
            __file__, name, jobs, arguments.turns, "pairs", timeout_seconds=3600 if large else 900
        )
    difference = largest_difference(
        results["nearfar fp32"][0]["losses"], results["sentence-transformers fp32"][0]["losses"]
    )
    assert difference < 1e-5, f"the losses differ by {difference}: not the same training"
    return report(name, results, same, asked, difference, arguments), results


def report(
    name: str,
    results: Results,
    job: dict[str, Any],
    asked: int,
    difference: float,
    arguments: argparse.Namespace,
) -> str:
    """The table of one data set."""
    header, rows = speed_rows(
        results,
        "sentence-transformers fp32",
        "pairs",
        ("peak_megabytes", "first_step_seconds", "first_step_processor_seconds"),
    )
    for row, runs in zip(rows, results.values(), strict=True):
        row[0] += f" ({runs[0]['precision']})"
    steps = f"{job['steps']} steps ({job['warm_up_steps']} of them warm-up) of {job['batch']} pairs"
    threads = f", {arguments.threads} threads" if arguments.threads else ""
    title = (
        f"{name}, {arguments.tuning}: {arguments.turns} turns of {steps}{threads}; median (range)"
    )
    return "\n".join(
        [
            table(title, [*header, "peak MB", "first step s", "its processor s"], rows),
            *(
                [
                    (
                        f"{asked} steps were asked for; there are no more pairs of which no text "
                        f"occurs "
                        f"twice"
                    )
                ]
                if asked > job["steps"]
                else []
            ),
            f"largest difference of a step's loss in fp32: {difference:.1e}",
            noise([one["wait_ratio"] for runs in results.values() for one in runs]),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    how = [arguments.tuning] if arguments.tuning != "lora" else []
    if arguments.batch != BATCH_SIZE:
        how.append(f"batch-{arguments.batch}")
    if arguments.only != "all":
        how.append(arguments.only)
    on_each_set("training-speed", compare, arguments, *how)


if __name__ == "__main__":
    run(
        __file__,
        measure,
        main,
        data="azure-cli,pycode",
        tuning="lora",
        batch=BATCH_SIZE,
        turns=3,
        steps=0,
        long_steps=0,
        threads=0,
        only="all",
        former="",
    )
