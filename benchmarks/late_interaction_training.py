"""Late interaction: training pairs per second and peak memory against PyLate's trainer, and the
losses of every step compared.

Same rows in the same order, same weights to start from (all-MiniLM-L6-v2 with a projection to 128
dimensions), all of them trained, same loss, optimizer and lengths: queries of 32 tokens with
expansion, documents of up to 180. Memory is that of the whole process, and above what it held when
the model was loaded: weights and libraries. PyLate pads every document to 180 and trains as it
comes; ours runs as `nearfar fit` does. PyLate multiplies what is masked by zero, so that padding
wins where a query token's best match is negative; ours excludes it. One more run of PyLate with
excluding scores must have our losses in float32 to 1e-5. It has an environment of its own: `make
setup-pylate`.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measuring import their_training
from measuring.children import child, run
from measuring.contest import Results, on_each_set, speed_rows, take_turns
from measuring.data import PYLATE, SEED, columns, model_folder, training_files
from measuring.record import noise, table
from measuring.training import Record, largest_difference, shared_sections, train_ours

CONTENDERS: dict[str, dict[str, Any]] = {
    "nearfar fp32": {"who": "ours", "precision": "fp32"},
    "pylate fp32": {"who": "theirs", "precision": "fp32"},
    "nearfar default": {"who": "ours", "precision": "auto"},
    "nearfar, nothing kept": {"who": "ours", "precision": "auto", "kept_tokens": 0},
    "pylate bf16": {"who": "theirs", "precision": "bf16"},
}
ALL = ";".join(CONTENDERS)
BATCH_SIZE, STEPS, WARM_UP_STEPS = 32, 8, 2
QUERY_TOKENS, DOCUMENT_TOKENS, DIMENSIONS = 32, 180, 128
TEMPERATURE, LEARNING_RATE = 1.0, 1e-5


def write_start(folder: Path) -> None:
    """The model that both start from: a fresh projection behind the backbone, in PyLate's
    layout.
    """
    import pytorch_lightning as lightning

    from trainer.models.formats.folder import save_encoder
    from trainer.models.late_interaction import (
        LateInteractionSettings,
        build_late_interaction_encoder,
    )

    lightning.seed_everything(SEED, verbose=False)
    lengths: dict[str, Any] = {
        "query_max_length_tokens": QUERY_TOKENS,
        "document_max_length_tokens": DOCUMENT_TOKENS,
    }
    model = LateInteractionSettings(
        backbone=model_folder(),
        projection_dimensions=DIMENSIONS,
        lora=None,
        **lengths,
    )
    save_encoder(build_late_interaction_encoder(model), folder)


def our_recipe(job: dict[str, Any]) -> Any:
    from trainer.recipe.schema.families import ColBERTRecipe
    from trainer.recipe.schema.model import ColBERTModel, FullTuning
    from trainer.recipe.schema.objective import ColBERTContrastiveObjective

    return ColBERTRecipe(
        **shared_sections(job, LEARNING_RATE),
        model=ColBERTModel(backbone=job["model"], tuning=FullTuning()),
        objective=ColBERTContrastiveObjective(temperature=TEMPERATURE),
    )


def excluding_scores(
    queries: Any, documents: Any, queries_mask: Any = None, documents_mask: Any = None
) -> Any:
    """MaxSim with what is masked left out, in the shape of PyLate's scores: (query, document *
    candidate).
    """
    import torch

    similarities = torch.einsum("qid,kcjd->qkcij", queries, documents)
    return (
        similarities.masked_fill(~documents_mask[None, :, :, None], -torch.inf)
        .amax(-1)
        .sum(-1)
        .flatten(1)
    )


def measure_theirs(job: dict[str, Any]) -> dict[str, Any]:
    """Runs under the Python of `.venv-pylate`."""
    import torch
    from datasets import Dataset
    from pylate import losses, models, utils
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sampler import DefaultBatchSampler

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    model = models.ColBERT(
        job["model"],
        device="cpu",
        config_kwargs=their_training.NO_DROPOUT,
    )
    record = Record(job)
    arguments = SentenceTransformerTrainingArguments(
        **their_training.arguments(job, DefaultBatchSampler, LEARNING_RATE)
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns(job["ordered"])),
        loss=their_training.recording(losses.Contrastive, record)(
            model,
            temperature=TEMPERATURE,
            score_metric=excluding_scores if job["exclude"] else None,
        ),
        data_collator=utils.ColBERTCollator(model.tokenize),
        callbacks=[their_training.watch(record)],
    )
    trainer.train()
    return {**record.result(), "precision": job["precision"]}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    return train_ours(our_recipe(job), job) if job["who"] == "ours" else measure_theirs(job)


def compare(name: str, source: Path, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Every contender, `turns` times in turn, on one data set."""
    with tempfile.TemporaryDirectory(prefix="nearfar-speed-") as temporary:
        folder = Path(temporary)
        files = training_files(folder, source, arguments.steps, arguments.batch)
        steps = files["steps"]
        if steps <= WARM_UP_STEPS:
            raise SystemExit(
                f"{steps} steps of {arguments.batch} pairs on {name}, of which {WARM_UP_STEPS} are"
                " warm-up: nothing to measure"
            )
        write_start(folder / "start")
        same = {
            **files,
            "folder": temporary,
            "model": str(folder / "start"),
            "warm_up_steps": WARM_UP_STEPS,
            "batch": arguments.batch,
            "threads": arguments.threads,
            "exclude": False,
            "kept_tokens": "auto",
        }
        jobs = {
            contender: {
                **same,
                **how,
                "python": str(PYLATE / "bin" / "python") if how["who"] == "theirs" else "",
            }
            for contender, how in CONTENDERS.items()
            if contender in arguments.contenders.split(";")
        }
        results = take_turns(__file__, name, jobs, arguments.turns, "pairs", timeout_seconds=1800)
        differences = {}
        if "pylate fp32" in results:
            check = child(__file__, {**jobs["pylate fp32"], "exclude": True, "turn": 0}, 1800)
            ours = results["nearfar fp32"][0]["losses"]
            differences = {
                how: largest_difference(ours, other["losses"])
                for how, other in (("as it comes", results["pylate fp32"][0]), ("excluding", check))
            }
            assert differences["excluding"] < 1e-5, (
                f"the losses differ: not the same training\n{ours}\n{check['losses']}"
            )
    return report(name, results, same, differences, arguments), results


def report(
    name: str,
    results: Results,
    job: dict[str, Any],
    differences: dict[str, float],
    arguments: argparse.Namespace,
) -> str:
    """The table of one data set."""
    base = "pylate fp32" if "pylate fp32" in results else next(iter(results))
    header, rows = speed_rows(
        results,
        base,
        "pairs",
        (
            "peak_megabytes",
            "megabytes_above_start",
            "first_step_seconds",
            "first_step_processor_seconds",
        ),
    )
    for row, runs in zip(rows, results.values(), strict=True):
        row[0] += f" ({runs[0]['precision']})"
    steps = f"{job['steps']} steps ({job['warm_up_steps']} of them warm-up) of {job['batch']} pairs"
    threads = f", {arguments.threads} threads" if arguments.threads else ""
    title = f"{name}, all weights: {arguments.turns} turns of {steps}{threads}; median (range)"
    losses = results[base][0]["losses"]
    return "\n".join(
        [
            table(
                title,
                [*header, "peak MB", ("above the start"), "first step s", "its processor s"],
                rows,
            ),
            f"losses {max(losses):.3f} to {min(losses):.3f}",
            *(
                (f"largest difference of a step's loss in fp32 to PyLate {how}: {difference:.1e}")
                for how, difference in differences.items()
            ),
            noise([one["wait_ratio"] for runs in results.values() for one in runs]),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    if not (PYLATE / ".made").is_file():
        print("skipped: PyLate is not installed; make setup-pylate")
        return
    how = [f"batch-{arguments.batch}"] if arguments.batch != BATCH_SIZE else []
    if arguments.contenders != ALL:
        how.append("some")
    on_each_set("late-interaction-training", compare, arguments, *how)


if __name__ == "__main__":
    run(
        __file__,
        measure,
        main,
        data="azure-cli,squad_dev",
        batch=BATCH_SIZE,
        turns=3,
        steps=STEPS,
        threads=0,
        contenders=ALL,
    )
