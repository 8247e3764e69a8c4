"""Sparse models (SPLADE): training pairs per second and peak memory against sentence-transformers'
SparseEncoderTrainer, and the losses of every step compared.

Same rows in the same order, same weights to start from, all of them trained, same optimizer and
lengths, no dropout. The loss is InfoNCE of dot products at temperature 1, plus FLOPS of queries and
of documents: their `SpladeLoss` with `SparseMultipleNegativesRankingLoss`. The weights of FLOPS are
constant, because the two warm-ups differ by one step. The losses of every step must agree in
float32 to 1e-5, or the script ends with an error. Ours runs as `nearfar fit` does.

`--model` is the folder of a masked language model. Without it, one with random weights is made, of
`--layers` and `--width`. The bias of its head is `HEAD_BIAS`, so that few words are active per
text, as in a trained model.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measuring import their_training
from measuring.children import run
from measuring.contest import Results, on_each_set, speed_rows, take_turns
from measuring.data import SEED, columns, model_folder, training_files
from measuring.record import noise, table
from measuring.training import Record, largest_difference, shared_sections, train_ours

CONTENDERS: dict[str, dict[str, Any]] = {
    "nearfar fp32": {"who": "ours", "precision": "fp32"},
    "sentence-transformers fp32": {"who": "theirs", "precision": "fp32"},
    "nearfar default": {"who": "ours", "precision": "auto"},
    "nearfar, nothing kept": {"who": "ours", "precision": "auto", "kept_tokens": 0},
    "sentence-transformers bf16": {"who": "theirs", "precision": "bf16"},
}
ALL = ";".join(CONTENDERS)
BATCH_SIZE, STEPS, WARM_UP_STEPS = 64, 5, 2
LEARNING_RATE = 1e-5
QUERY_WEIGHT, DOCUMENT_WEIGHT = 0.003, 0.003
HEAD_BIAS = -1.5


def random_model(folder: Path, layers: int, width: int) -> str:
    """Writes a BERT with random weights and the tokenizer of all-MiniLM-L6-v2."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64),
        )
    )
    torch.nn.init.constant_(model.cls.predictions.bias, HEAD_BIAS)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_start(folder: Path, backbone: str, tokens: int, documents: list[str]) -> float:
    """Writes the sparse model that both start from. Returns its active terms per document."""
    import torch

    from trainer.models.formats.folder import save_encoder
    from trainer.models.sparse import SparseSettings, build_sparse_encoder

    encoder = build_sparse_encoder(
        SparseSettings(
            backbone=backbone,
            lora=None,
            query_max_length_tokens=tokens,
            document_max_length_tokens=tokens,
        )
    )
    save_encoder(encoder, folder)
    with torch.no_grad():
        return float((encoder(encoder.tokenize(documents, "document")) > 0).sum(1).float().mean())


def our_recipe(job: dict[str, Any]) -> Any:
    from trainer.recipe.schema.families import SparseRecipe
    from trainer.recipe.schema.model import FullTuning, SparseModel
    from trainer.recipe.schema.sparse import RegularizerSection

    return SparseRecipe(
        **shared_sections(job, LEARNING_RATE),
        model=SparseModel(backbone=job["model"], tuning=FullTuning()),
        regularizer=RegularizerSection(
            query_weight=QUERY_WEIGHT, document_weight=DOCUMENT_WEIGHT, warmup_ratio=0.0
        ),
    )


def measure_theirs(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SparseEncoder,
        SparseEncoderTrainer,
        SparseEncoderTrainingArguments,
    )
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sparse_encoder import losses
    from sentence_transformers.sparse_encoder.callbacks import (
        SpladeRegularizerWeightSchedulerCallback,
    )

    class ConstantWeights(SpladeRegularizerWeightSchedulerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None: ...

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    model = SparseEncoder(job["model"], device="cpu", config_kwargs=their_training.NO_DROPOUT)
    record = Record(job)
    loss = their_training.recording(losses.SpladeLoss, record)(
        model,
        losses.SparseMultipleNegativesRankingLoss(model, scale=1.0),
        document_regularizer_weight=DOCUMENT_WEIGHT,
        query_regularizer_weight=QUERY_WEIGHT,
    )
    SparseEncoderTrainer(
        model=model,
        args=SparseEncoderTrainingArguments(
            **their_training.arguments(job, DefaultBatchSampler, LEARNING_RATE)
        ),
        train_dataset=Dataset.from_dict(columns(job["ordered"])),
        loss=loss,
        callbacks=[ConstantWeights(loss), their_training.watch(record)],
    ).train()
    assert loss.document_regularizer_weight == DOCUMENT_WEIGHT
    return {**record.result(), "precision": job["precision"]}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    return train_ours(our_recipe(job), job) if job["who"] == "ours" else measure_theirs(job)


def compare(name: str, source: Path, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Every contender, `turns` times in turn, on one data set."""
    with tempfile.TemporaryDirectory(prefix="nearfar-speed-") as temporary:
        folder = Path(temporary)
        files = training_files(folder, source, arguments.steps, arguments.batch)
        if files["steps"] <= WARM_UP_STEPS:
            raise SystemExit(
                f"{files['steps']} steps of {arguments.batch} pairs on {name}, of which"
                f" {WARM_UP_STEPS} are warm-up: nothing to measure"
            )
        backbone = arguments.model or random_model(
            folder / "random", arguments.layers, arguments.width
        )
        texts = columns(files["ordered"])["document"][: arguments.batch]
        terms = write_start(folder / "start", backbone, arguments.tokens, texts)
        same = {
            **files,
            "folder": temporary,
            "model": str(folder / "start"),
            "warm_up_steps": WARM_UP_STEPS,
            "batch": arguments.batch,
            "threads": arguments.threads,
            "kept_tokens": "auto",
        }
        jobs = {
            contender: {**same, **how}
            for contender, how in CONTENDERS.items()
            if contender in arguments.contenders.split(";")
        }
        results = take_turns(__file__, name, jobs, arguments.turns, "pairs", timeout_seconds=1800)
    difference = largest_difference(
        *(results[f"{who} fp32"][0]["losses"] for who in ("nearfar", "sentence-transformers"))
    )
    assert difference < 1e-5, f"the losses differ by {difference}: not the same training"
    return report(name, results, same, terms, difference, arguments), results


def report(
    name: str,
    results: Results,
    job: dict[str, Any],
    terms: float,
    difference: float,
    arguments: argparse.Namespace,
) -> str:
    """The table of one data set."""
    memory = ("peak_megabytes", "megabytes_above_start")
    header, rows = speed_rows(results, "sentence-transformers fp32", "pairs", memory)
    for row, runs in zip(rows, results.values(), strict=True):
        row[0] += f" ({runs[0]['precision']})"
    model = (
        Path(arguments.model).name
        if arguments.model
        else f"random BERT of {arguments.layers} layers of {arguments.width}"
    )
    title = (
        f"{name}, {model}, all weights, at most {arguments.tokens} tokens: {arguments.turns} turns"
        f" of {job['steps']} steps ({WARM_UP_STEPS} of them warm-up) of {job['batch']} pairs;"
        " median (range)"
    )
    losses = results["nearfar fp32"][0]["losses"]
    return "\n".join(
        [
            table(title, [*header, "peak MB", "above the start"], rows),
            f"{terms:.0f} active terms per document at the start; losses {max(losses):.3f} to"
            f" {min(losses):.3f}",
            f"largest difference of a step's loss in fp32: {difference:.1e}",
            noise([one["wait_ratio"] for runs in results.values() for one in runs]),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    model = (
        Path(arguments.model).name
        if arguments.model
        else f"random-{arguments.layers}x{arguments.width}"
    )
    how = [model, f"{arguments.tokens}-tokens", f"batch-{arguments.batch}"]
    on_each_set("sparse-training", compare, arguments, *how)


if __name__ == "__main__":
    run(
        __file__,
        measure,
        main,
        data="azure-cli",
        model="",
        layers=4,
        width=384,
        tokens=128,
        batch=BATCH_SIZE,
        turns=3,
        steps=STEPS,
        threads=0,
        contenders=ALL,
    )
