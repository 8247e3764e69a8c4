"""The one place that turns a recipe into objects. Everything below takes plain arguments and never sees a recipe."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping

from trainer import objectives, recipe
from trainer.batch import Batch, identity
from trainer.data.collate import collate
from trainer.data.module import PairData, Steps
from trainer.data.order import steps_per_epoch
from trainer.data.read import read_rows
from trainer.data.retrieval_set import RetrievalSet, from_rows, read_retrieval_set
from trainer.data.rows import Rows, known_positives
from trainer.data.splits import hold_out
from trainer.errors import BadData, BadRecipe
from trainer.evaluation.evaluate import evaluate
from trainer.models.dense import DenseEncoder, load_encoder
from trainer.modules.bi_encoder import BiEncoder, Loss, Temperature
from trainer.modules.optimizer import OptimizerSettings
from trainer.parallel import Encode, in_chunks
from trainer.runtime.log import JsonlLogger
from trainer.runtime.progress import VALIDATION_SCORE, ProgressLine
from trainer.runtime.run_folder import RunFolder
from trainer.runtime.trackers import tracker_loggers
from trainer.scores import dot

Precision = Literal["fp32", "bf16", "fp16"]
CPU_TOKENS, GPU_TOKENS = 2048, 16384
"""Padded tokens of a micro-batch: on a CPU, activations that stay in the cache; on a GPU, enough to fill it."""


@dataclass(frozen=True)
class DataSets:
    """What a run learns from, is validated on, and is tested on."""

    train: Rows
    validation: RetrievalSet
    test: RetrievalSet | None


def data_sets(data: recipe.Data, seed: int) -> DataSets:
    """Reads all data of a recipe. Raises BadData or TooManyBadRows with the place of the fault."""
    read = partial(read_rows, columns=data.columns, max_bad_rows_ratio=data.max_bad_rows_ratio, negatives_per_query=data.negatives_per_query)
    rows = read(data.train, split="train")
    held_out = partial(read_retrieval_set, columns=data.columns, max_bad_rows_ratio=data.max_bad_rows_ratio)
    beir = (Path(data.train) / "corpus.jsonl").is_file()
    test_source = data.test or (data.train if beir and (Path(data.train) / "qrels" / "test.tsv").is_file() else None)
    validation_source = data.validation or (data.train if beir and (Path(data.train) / "qrels" / "dev.tsv").is_file() else None)
    if validation_source:
        validation = held_out(validation_source, "dev", max_queries=data.validation_max_queries)
    else:
        rows, validation_rows = hold_out(rows, data.validation_ratio, data.validation_max_queries, seed)
        validation = from_rows(validation_rows, "validation")
    return DataSets(rows, validation, held_out(test_source, "test") if test_source else None)


def seen_in_training(rows: Rows, held_out: RetrievalSet) -> int:
    """How many of the queries are also training queries, word for word."""
    trained = rows.identities("query")
    return int(np.isin([identity(query) for query in held_out.queries], trained).sum())


def prepare_machine(machine: recipe.Machine) -> None:
    """Threads of this process, and libraries that talk too much; changes nothing that is learned."""
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its greetings; what matters is in our own lines
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*(does not have many workers|treespec, LeafSpec).*")


def accelerator(machine: recipe.Machine) -> str:
    """`cpu`, `cuda` or `mps`. Raises BadRecipe when the recipe asks for what this machine lacks."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if machine.accelerator == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there[machine.accelerator]:
        raise BadRecipe(
            f"machine.accelerator={machine.accelerator}, but PyTorch finds no such device here; use machine.accelerator=auto or cpu, "
            "or install a PyTorch build for the device"
        )
    return machine.accelerator


def precision(machine: recipe.Machine) -> Precision:
    """What the recipe says, or bf16 where the hardware has instructions for it, else fp32."""
    device = accelerator(machine)
    if machine.precision == "fp16" and device == "cpu":
        raise BadRecipe("machine.precision=fp16 needs a GPU: CPUs have no fast fp16 training; use bf16 or fp32")
    if machine.precision != "auto":
        return machine.precision
    match device:
        case "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        case "cpu":
            return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"
        case _:
            return "fp32"


def micro_batch_tokens(machine: recipe.Machine) -> int:
    """Padded tokens that go through the encoder at once."""
    if machine.micro_batch_tokens != "auto":
        return machine.micro_batch_tokens
    return CPU_TOKENS if accelerator(machine) == "cpu" else GPU_TOKENS


def loss(objective: recipe.Objective) -> tuple[Loss, Temperature]:
    """The objective with its settings filled in, and its temperature."""
    match objective:
        case recipe.Contrastive():
            function = partial(objectives.contrastive, symmetric=objective.symmetric)
            return partial(_scored_by_dot, function), Temperature(objective.temperature, objective.learn_temperature)
        case recipe.Cosent():
            return partial(_scored_by_dot, objectives.cosent), Temperature(objective.temperature, learned=False)
        case recipe.Triplet():
            function = partial(_without_temperature, partial(objectives.triplet, margin=objective.margin))
            return function, Temperature(1.0, learned=False)
        case _:
            assert_never(objective)


def _scored_by_dot(objective: Callable[..., torch.Tensor], batch: Batch, encode: Encode, temperature: torch.Tensor) -> torch.Tensor:
    return objective(batch, encode, dot, temperature)


def _without_temperature(objective: Callable[..., torch.Tensor], batch: Batch, encode: Encode, _: torch.Tensor) -> torch.Tensor:
    return objective(batch, encode, dot)


def optimizer_settings(settings: recipe.Optimization, total_steps: int) -> OptimizerSettings:
    """Rates filled in where the recipe leaves them to the main one; warm-up in steps."""
    warmup = settings.warmup_steps if settings.warmup_steps is not None else round(settings.warmup_ratio * total_steps)
    return OptimizerSettings(
        learning_rate=settings.learning_rate,
        head_learning_rate=settings.head_learning_rate or settings.learning_rate,
        temperature_learning_rate=settings.temperature_learning_rate or settings.learning_rate,
        weight_decay=settings.weight_decay,
        schedule=settings.schedule,
        warmup_steps=min(warmup, total_steps),
        total_steps=total_steps,
    )


def total_steps(settings: recipe.Optimization, samples: int) -> int:
    """Optimizer steps of the whole run. Raises BadData when the rows do not fill one batch."""
    an_epoch = steps_per_epoch(samples, settings.batch_size)
    if an_epoch == 0:
        raise BadData(
            f"{samples} training rows do not fill one batch of {settings.batch_size}; "
            + (f"give more rows, or set optimization.batch_size to at most {samples}" if samples > 1 else "give at least two rows")
        )
    return settings.max_steps or an_epoch * settings.epochs


def check_objective(run: recipe.Recipe, rows: Rows) -> None:
    """Raises BadData or BadRecipe when the rows lack what the objective needs."""
    if isinstance(run.objective, recipe.Cosent) and rows[0].labels is None:
        raise BadData(f"objective.kind=cosent needs a score for every pair, but {run.data.train} has no column `score`; name it in data.columns")
    if isinstance(run.objective, recipe.Cosent) and run.data.negatives_per_query:
        raise BadRecipe("objective.kind=cosent learns from scored pairs, not from hard negatives; set data.negatives_per_query to 0")
    if not isinstance(run.objective, recipe.Cosent) and rows[0].labels is not None and len(rows[0].labels) == 1:
        raise BadData(
            f"{run.data.train} holds scored pairs, and objective.kind={run.objective.kind} would take every pair for a positive; "
            "use objective.kind=cosent, or a file of the positive pairs alone, without scores"
        )
    if isinstance(run.objective, recipe.Triplet) and run.data.negatives_per_query == 0:
        raise BadRecipe("objective.kind=triplet compares with hard negatives; set data.negatives_per_query to 1 or more")


def bi_encoder(run: recipe.Recipe, encoder: DenseEncoder, steps: int) -> BiEncoder:
    """The Lightning module of a recipe around an encoder."""
    function, temperature = loss(run.objective)
    return BiEncoder(
        encoder=encoder,
        encode=in_chunks(encoder, micro_batch_tokens(run.machine), run.machine.recompute),
        loss=function,
        temperature=temperature,
        optimizer=replace(optimizer_settings(run.optimization, steps), fused=precision(run.machine) != "fp16"),
        validate=partial(_validation_metrics, encoder, precision(run.machine), micro_batch_tokens(run.machine)),
    )


def _validation_metrics(encoder: DenseEncoder, how: Precision, tokens: int, held_out: RetrievalSet) -> Mapping[str, float]:
    metrics = evaluate(encoder, held_out, name="validation", precision=how, micro_batch_tokens=tokens).metrics
    return {name: float(values.mean()) for name, values in metrics.items()}


def pair_data(run: recipe.Recipe, data: DataSets, encoder: DenseEncoder, steps: int) -> PairData:
    """Training steps in their order, tokenised as the encoder's contract says."""
    make = partial(collate, tokenize=encoder.tokenize, known_positives=known_positives(data.train), negatives_per_query=run.data.negatives_per_query)
    return PairData(Steps(data.train, make, run.seed, run.optimization.batch_size, first=0, last=steps), data.validation)


_LIGHTNING_PRECISION: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def trainer(run: recipe.Recipe, folder: RunFolder, steps: int, samples: int, extra: Sequence[lightning.Callback]) -> lightning.Trainer:
    """Lightning's trainer with our log and progress line, early stopping where the recipe asks for it, and `extra` callbacks."""
    every = run.validation.every_steps or steps_per_epoch(samples, run.optimization.batch_size)
    callbacks = [ProgressLine(run.optimization.batch_size, steps), *extra]
    if run.validation.patience is not None:
        callbacks.append(EarlyStopping(VALIDATION_SCORE, mode="max", patience=run.validation.patience))
    return lightning.Trainer(
        accelerator=accelerator(run.machine),
        devices=1,
        precision=_LIGHTNING_PRECISION[precision(run.machine)],
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=min(every, steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=run.optimization.gradient_clip_norm,
        callbacks=callbacks,
        logger=[JsonlLogger(folder.log_path), *tracker_loggers(run.trackers, folder.path, run.name, run.model_dump(mode="json"))],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder.path,
    )


def encoder_of(run: recipe.Recipe) -> DenseEncoder:
    """The encoder of a recipe, its new weights drawn from the seed."""
    lightning.seed_everything(run.seed, verbose=False)
    return load_encoder(run.model)
