"""The one place that turns a recipe into objects. Everything below takes plain arguments and never sees a recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping

from trainer import build_cross_encoder, hardware, objectives, recipe
from trainer.batch import Batch, identity
from trainer.chunks import Encode, in_chunks
from trainer.data.mixture import Mixture, check_weights, end_to_end, mixed
from trainer.data.module import PairData, Steps
from trainer.data.order import steps_per_epoch
from trainer.data.read import read_rows
from trainer.data.retrieval_set import RetrievalSet, from_rows, read_retrieval_set
from trainer.data.rows import Rows, known_positives
from trainer.data.splits import hold_out
from trainer.errors import BadData, BadRecipe
from trainer.evaluation.evaluate import evaluate
from trainer.hardness import Hardness
from trainer.mining.refresh import Refresh
from trainer.models.cross_encoder import CrossEncoder
from trainer.models.dense import read_encoder
from trainer.models.encoder import Encoder
from trainer.models.family import load_model
from trainer.modules.bi_encoder import BiEncoder, Loss, Temperature
from trainer.modules.colbert import ColBERT
from trainer.modules.cross_encoder import Reranker
from trainer.modules.optimizer import OptimizerSettings
from trainer.nested import latest
from trainer.objectives import Filter, Outcome
from trainer.retrieval.encode import Precision
from trainer.retrieved import with_limits
from trainer.runtime.log import JsonlLogger
from trainer.runtime.progress import VALIDATION_SCORE, ProgressLine
from trainer.runtime.run_folder import RunFolder
from trainer.runtime.trackers import tracker_loggers
from trainer.scores import Score, dot, kernel_maxsim, maxsim, plain_maxsim, xtr
from trainer.strategies.environment import SINGLE, Plan
from trainer.strategies.lightning import lightning_precision, lightning_strategy
from trainer.students import encode_of, whole_loss
from trainer.teaching import Teacher


@dataclass(frozen=True)
class DataSets:
    """What a run learns from, is validated on, and is tested on."""

    train: Rows
    validation: RetrievalSet
    test: RetrievalSet | None
    mixture: Mixture | None = None
    """How `train` is made up of several data sets; None: it is one."""


def data_sets(data: recipe.Data, seed: int, all_negatives: bool = False) -> DataSets:
    """Reads all data of a recipe, of each row the negatives that are used, or all. Raises BadData or TooManyBadRows with the place of the fault, and BadRecipe for weights given to some sets only."""
    weights = [source.weight for source in data.sources]
    check_weights(weights)
    kept = None if all_negatives else data.negatives_per_query
    read = partial(read_rows, split="train", max_bad_rows_ratio=data.max_bad_rows_ratio, negatives_per_query=kept)
    sets = [read(source.source, columns=data.columns if source.columns is None else source.columns) for source in data.sources]
    rows = end_to_end(sets)
    held_out = partial(read_retrieval_set, columns=data.columns, max_bad_rows_ratio=data.max_bad_rows_ratio)
    validation_source, test_source = data.validation or _split_of(data.sources, "dev"), data.test or _split_of(data.sources, "test")
    if validation_source:
        validation = held_out(validation_source, "dev", max_queries=data.validation_max_queries)
    else:
        rows, validation_rows = hold_out(rows, data.validation_ratio, data.validation_max_queries, seed)
        validation = from_rows(validation_rows, "validation")
    mixture = mixed(sets, rows, weights, data.mixing == "one_source_per_batch") if len(sets) > 1 else None
    return DataSets(rows, validation, held_out(test_source, "test") if test_source else None, mixture)


def _split_of(sources: Sequence[recipe.Source], split: Literal["dev", "test"]) -> str | None:
    """The one BEIR folder that is trained on, if it has this split."""
    folder = Path(sources[0].source)
    there = len(sources) == 1 and (folder / "corpus.jsonl").is_file() and (folder / "qrels" / f"{split}.tsv").is_file()
    return sources[0].source if there else None


def seen_in_training(rows: Rows, held_out: RetrievalSet) -> int:
    """How many of the queries are also training queries, word for word."""
    trained = rows.identities("query")
    return int(np.isin([identity(query) for query in held_out.queries], trained).sum())


def loss(objective: recipe.Objective, score: Score = dot, filters: Sequence[Filter] = ()) -> tuple[Loss, Temperature]:
    """The objective with its settings and the family's score filled in, and its temperature."""
    match objective:
        case recipe.Contrastive():
            hardness = Hardness(**objective.hardness.model_dump()) if objective.hardness is not None else None
            function = partial(objectives.contrastive, symmetric=objective.symmetric, filters=filters, hardness=hardness)
            if objective.xtr_top_k is not None:
                score, function = xtr, partial(function, prepare=partial(with_limits, top_k=objective.xtr_top_k))
            return partial(_scored, score, function), Temperature(objective.temperature, objective.learn_temperature)
        case recipe.Distillation():
            function = partial(objectives.distillation, teacher_temperature=objective.teacher_temperature)
            return partial(_scored, score, function), Temperature(objective.temperature, learned=False)
        case recipe.MarginMse():
            return partial(_scored_plainly, score, objectives.margin_mse), Temperature(1.0, learned=False)
        case recipe.Cosent():
            return partial(_scored, score, objectives.cosent), Temperature(objective.temperature, learned=False)
        case recipe.Triplet():
            return partial(_scored_plainly, score, partial(objectives.triplet, margin=objective.margin)), Temperature(1.0, learned=False)
        case recipe.Pointwise() | recipe.Pairwise() | recipe.Listwise() | recipe.LambdaLoss():
            return build_cross_encoder.loss(objective)
        case _:
            assert_never(objective)


def score(run: recipe.Recipe) -> Score:
    """How the family compares a query with a document, computed as the machine wishes. Raises BadRecipe for kernels that are not there."""
    if run.kind != "colbert":
        return dot
    match run.machine.maxsim:
        case "auto" | "pieces":
            return maxsim
        case "plain":
            return plain_maxsim
        case "kernels":
            if hardware.accelerator(run.machine) != "cuda" or find_spec("late_interaction_kernels") is None:
                raise BadRecipe(
                    "machine.maxsim=kernels needs an NVIDIA GPU and the package late-interaction-kernels (pip install 'nearfar[kernels]'); "
                    "use machine.maxsim=auto"
                )
            return kernel_maxsim
        case _:
            assert_never(run.machine.maxsim)


def filters(run: recipe.Recipe, encoder: Encoder) -> list[Filter]:
    """What leaves out negatives that are probably right. Raises BadRecipe for a guide with another tokenizer than the encoder's."""
    found: list[Filter] = []
    if not isinstance(run.objective, recipe.Contrastive):
        return found
    if run.refresh is not None:
        found.append(objectives.repeated_positives)
    if run.objective.guide is not None:
        guide = read_encoder(run.objective.guide).to(hardware.device(run.machine)).requires_grad_(False)
        if guide.contract.tokenizer_fingerprint != encoder.contract.tokenizer_fingerprint:
            raise BadRecipe(
                f"objective.guide={run.objective.guide} cuts texts into other tokens than {run.model.backbone}, and a batch holds the tokens of one; "
                "take a guide with the same tokenizer, such as a larger model of the same family or the model before training"
            )
        in_parts = in_chunks(guide, hardware.micro_batch_tokens(run.machine))
        outscoring = partial(objectives.outscoring, guide=in_parts, margin=run.objective.guide_margin)
        found.append(outscoring if run.matryoshka is None else latest(outscoring))
    if run.objective.teacher_margin is not None:
        found.append(partial(objectives.taught_better, margin=run.objective.teacher_margin))
    return found


def _scored(score: Score, objective: Callable[..., Outcome], batch: Batch, encode: Encode, temperature: torch.Tensor) -> Outcome:
    return objective(batch, encode, score, temperature)


def _scored_plainly(score: Score, objective: Callable[..., Outcome], batch: Batch, encode: Encode, _: torch.Tensor) -> Outcome:
    return objective(batch, encode, score)


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


def lightning_module(run: recipe.Recipe, encoder: Encoder, steps: int, plan: Plan = SINGLE, taught_by: Sequence[Teacher] = ()) -> BiEncoder:
    """The Lightning module of a recipe around an encoder; `taught_by` are its teachers (`trainer.students.teachers`)."""
    head = None
    if run.kind == "cross_encoder":
        function, temperature = build_cross_encoder.loss(run.objective)
    else:
        objective, temperature = loss(run.objective, score(run), filters(run, encoder))
        function, head = whole_loss(run, objective, score(run), encoder, taught_by)
    tokens, kept = hardware.micro_batching(run.machine, encoder.to(hardware.device(run.machine)), plan.ranks_per_node)
    return _MODULES[run.kind](
        encoder=encoder,
        encode=partial(in_chunks, encode_of(run, encoder), tokens, kept),
        loss=function,
        temperature=temperature,
        optimizer=replace(optimizer_settings(run.optimization, steps), fused=hardware.precision(run.machine) != "fp16"),
        validate=_validation(run, encoder, hardware.precision(run.machine), hardware.micro_batch_tokens(run.machine)),
        head=head,
    )


_MODULES = {"bi_encoder": BiEncoder, "colbert": ColBERT, "cross_encoder": Reranker}


def _validation(run: recipe.Recipe, encoder: Encoder, how: Precision, tokens: int) -> Callable[[RetrievalSet], Mapping[str, float]]:
    if isinstance(encoder, CrossEncoder):
        return build_cross_encoder.Validation(encoder, how, tokens, build_cross_encoder.candidates(run))
    return partial(_validation_metrics, encoder, how, tokens)


def _validation_metrics(encoder: Encoder, how: Precision, tokens: int, held_out: RetrievalSet) -> Mapping[str, float]:
    metrics = evaluate(encoder, held_out, name="validation", precision=how, micro_batch_tokens=tokens).metrics
    return {name: float(values.mean()) for name, values in metrics.items()}


def pair_data(run: recipe.Recipe, data: DataSets, encoder: Encoder, steps: int, refreshed: Refresh | None = None) -> PairData:
    """Training steps in their order, tokenised as the encoder's contract says; `refreshed` mines their negatives (`trainer.build_refresh`)."""
    known = known_positives(data.train)
    make, drawn = build_cross_encoder.collation(run, encoder, known), build_cross_encoder.random_negatives(run, data.train, known)
    size = run.optimization.batch_size
    order = Steps(data.train, make, run.seed, size, first=0, last=steps, mixture=data.mixture, random_negatives=drawn, refreshed=refreshed)
    return PairData(order, data.validation)


def trainer(
    run: recipe.Recipe, folder: RunFolder, steps: int, samples: int, extra: Sequence[lightning.Callback], plan: Plan = SINGLE
) -> lightning.Trainer:
    """Lightning's trainer with our log and progress line, early stopping where the recipe asks for it, and `extra` callbacks."""
    every = run.validation.every_steps or steps_per_epoch(samples, run.optimization.batch_size)
    callbacks = [ProgressLine(run.optimization.batch_size, steps), *extra]
    if run.validation.patience is not None:
        callbacks.append(EarlyStopping(VALIDATION_SCORE, mode="max", patience=run.validation.patience))
    return lightning.Trainer(
        accelerator=hardware.accelerator(run.machine),
        strategy=lightning_strategy(plan, hardware.accelerator(run.machine)),
        devices=plan.ranks_per_node,
        num_nodes=plan.nodes,
        use_distributed_sampler=False,
        plugins=[lightning_precision(plan, hardware.precision(run.machine), hardware.accelerator(run.machine))],
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


def encoder_of(run: recipe.Recipe) -> Encoder:
    """The encoder of a recipe, its new weights drawn from the seed."""
    lightning.seed_everything(run.seed, verbose=False)
    return load_model(run)
