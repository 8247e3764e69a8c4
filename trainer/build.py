"""The one place that turns a recipe into objects. Everything below takes plain arguments and never sees a recipe."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping

from trainer import objectives, recipe
from trainer.batch import Batch, Texts, identity
from trainer.chunks import Encode, in_chunks
from trainer.data.collate import collate
from trainer.data.mixture import Mixture, check_weights, end_to_end, mixed
from trainer.data.module import PairData, Steps
from trainer.data.order import steps_per_epoch
from trainer.data.read import read_rows
from trainer.data.retrieval_set import RetrievalSet, from_rows, read_retrieval_set
from trainer.data.rows import Rows, known_positives
from trainer.data.splits import hold_out
from trainer.errors import BadData, BadMachine, BadRecipe
from trainer.evaluation.evaluate import evaluate
from trainer.models.dense import read_encoder
from trainer.models.encoder import Encoder
from trainer.models.family import load_model
from trainer.modules.bi_encoder import BiEncoder, Loss, Temperature
from trainer.modules.colbert import ColBERT
from trainer.modules.optimizer import OptimizerSettings
from trainer.objectives import Filter, Outcome
from trainer.retrieval.encode import Precision, autocast
from trainer.retrieved import with_limits
from trainer.runtime import memory
from trainer.runtime.log import JsonlLogger
from trainer.runtime.progress import VALIDATION_SCORE, ProgressLine
from trainer.runtime.run_folder import RunFolder
from trainer.runtime.trackers import tracker_loggers
from trainer.scores import Score, dot, kernel_maxsim, maxsim, plain_maxsim, xtr
from trainer.strategies.environment import SINGLE, Plan
from trainer.strategies.lightning import lightning_precision, lightning_strategy

CPU_TOKENS, GPU_TOKENS = 2048, 16384
"""Padded tokens of a micro-batch: on a CPU, activations that stay in the cache; on a GPU, enough to fill it."""


@dataclass(frozen=True)
class DataSets:
    """What a run learns from, is validated on, and is tested on."""

    train: Rows
    validation: RetrievalSet
    test: RetrievalSet | None
    mixture: Mixture | None = None
    """How `train` is made up of several data sets; None: it is one."""


def data_sets(data: recipe.Data, seed: int) -> DataSets:
    """Reads all data of a recipe. Raises BadData or TooManyBadRows with the place of the fault, and BadRecipe for weights given to some sets only."""
    weights = [source.weight for source in data.sources]
    check_weights(weights)
    read = partial(read_rows, split="train", max_bad_rows_ratio=data.max_bad_rows_ratio, negatives_per_query=data.negatives_per_query)
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


def prepare_machine(machine: recipe.Machine) -> None:
    """Threads of this process, and libraries that talk too much; changes nothing that is learned."""
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its greetings; what matters is in our own lines
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", category=FutureWarning)
    warnings.filterwarnings(
        "ignore",
        message=".*(does not have many workers|treespec, LeafSpec|`sync_dist=True`|`srun` command|configure_gradient_clipping).*",
    )


def on_machine(run: recipe.Recipe, plan: Plan) -> recipe.Recipe:
    """The recipe with what the machine file decides filled into its section `machine`. Raises BadMachine where both say, and differ."""
    said = {"accelerator": plan.accelerator, "precision": plan.precision}
    for key, value in said.items():
        wish = getattr(run.machine, key)
        if value is not None and wish not in ("auto", value):
            raise BadMachine(f"the recipe says machine.{key}={wish} and the machine file {value}; set machine.{key}=auto, or change the machine file")
    filled = run.machine.model_copy(update={key: value for key, value in said.items() if value is not None})
    return run.model_copy(update={"machine": filled})


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


def device(machine: recipe.Machine) -> torch.device:
    """Where this process computes: of several GPUs the one that is its own."""
    kind = accelerator(machine)
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


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


def micro_batching(machine: recipe.Machine, encoder: Encoder, processes: int) -> tuple[int, int]:
    """Padded tokens that go through the encoder at once, and of how many in a step the activations are kept: what the recipe leaves open is measured.

    Kept is what fits in the memory that is there, shared among the processes of this machine. On a GPU a micro-batch is at most a quarter of that.
    """
    if machine.kept_tokens == "auto" or (machine.micro_batch_tokens == "auto" and encoder.device.type == "cuda"):
        length = encoder.contract.document_max_length_tokens
        count = max(1, CPU_TOKENS // length)  # few tokens would pay for copies of the weights that autocast makes
        texts = Texts.of([[0] * length] * count, range(count))
        with autocast(encoder.device, precision(machine)):
            fits = memory.kept_tokens(encoder, encoder, texts, processes)
    kept = fits if machine.kept_tokens == "auto" else machine.kept_tokens
    tokens = micro_batch_tokens(machine)
    if machine.micro_batch_tokens == "auto" and encoder.device.type == "cuda":
        tokens = min(tokens, max(encoder.contract.document_max_length_tokens, fits // 4))
    return tokens, kept


def loss(objective: recipe.Objective, score: Score = dot, filters: Sequence[Filter] = ()) -> tuple[Loss, Temperature]:
    """The objective with its settings and the family's score filled in, and its temperature."""
    match objective:
        case recipe.Contrastive():
            function = partial(objectives.contrastive, symmetric=objective.symmetric, filters=filters)
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
        case _:
            assert_never(objective)


def score(run: recipe.Recipe) -> Score:
    """How the family compares a query with a document, computed as the machine wishes. Raises BadRecipe for kernels that are not there."""
    if run.kind == "bi_encoder":
        return dot
    match run.machine.maxsim:
        case "auto" | "pieces":
            return maxsim
        case "plain":
            return plain_maxsim
        case "kernels":
            if accelerator(run.machine) != "cuda" or find_spec("late_interaction_kernels") is None:
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
    if run.objective.guide is not None:
        guide = read_encoder(run.objective.guide).to(device(run.machine)).requires_grad_(False)
        if guide.contract.tokenizer_fingerprint != encoder.contract.tokenizer_fingerprint:
            raise BadRecipe(
                f"objective.guide={run.objective.guide} cuts texts into other tokens than {run.model.backbone}, and a batch holds the tokens of one; "
                "take a guide with the same tokenizer, such as a larger model of the same family or the model before training"
            )
        in_parts = in_chunks(guide, micro_batch_tokens(run.machine))
        found.append(partial(objectives.outscoring, guide=in_parts, margin=run.objective.guide_margin))
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


def check_family(run: recipe.Recipe) -> None:
    """Raises BadRecipe where the recipe sets what its kind of model does not have."""
    model = run.model
    if run.kind == "bi_encoder" and model.late_interaction is not None:
        raise BadRecipe("model.late_interaction belongs to kind: colbert, and this recipe is of kind bi_encoder; take it out, or change the kind")
    if run.kind == "colbert" and (model.pooling is not None or model.normalize is not None):
        key = "pooling" if model.pooling is not None else "normalize"
        raise BadRecipe(f"model.{key} belongs to kind: bi_encoder; a colbert model keeps a vector of length 1 for each token, so take it out")
    if run.kind == "bi_encoder" and isinstance(run.objective, recipe.Contrastive) and run.objective.xtr_top_k is not None:
        raise BadRecipe("objective.xtr_top_k belongs to kind: colbert, whose queries have tokens that retrieve; take it out, or change the kind")
    if run.kind == "colbert" and isinstance(run.objective, recipe.Contrastive) and run.objective.guide is not None:
        raise BadRecipe("objective.guide belongs to kind: bi_encoder: a guide scores with one vector a text; take it out")


def check_objective(run: recipe.Recipe, rows: Rows, mixture: Mixture | None = None) -> None:
    """Raises BadData or BadRecipe when the rows, of which the first of each set is looked at, lack what the objective or a batch needs."""
    check_family(run)
    if isinstance(run.objective, recipe.Cosent) and run.data.negatives_per_query:
        raise BadRecipe("objective.kind=cosent learns from scored pairs, not from hard negatives; set data.negatives_per_query to 0")
    if isinstance(run.objective, recipe.Triplet) and run.data.negatives_per_query == 0:
        raise BadRecipe("objective.kind=triplet compares with hard negatives; set data.negatives_per_query to 1 or more")
    taught = isinstance(run.objective, recipe.Distillation | recipe.MarginMse)
    if taught and run.data.negatives_per_query == 0:
        raise BadRecipe(f"objective.kind={run.objective.kind} compares a query's own candidates; set data.negatives_per_query to 1 or more")
    sizes = mixture.sizes if mixture else (len(rows),)
    for source, first in zip(run.data.sources, accumulate(sizes, initial=0), strict=False):
        labels = rows[first].labels
        if isinstance(run.objective, recipe.Cosent) and labels is None:
            raise BadData(f"objective.kind=cosent needs a score for every pair, but {source.source} has no column `score`; name it in data.columns")
        if taught and (labels is None or len(labels) != 1 + len(rows[first].negatives)):
            raise BadData(
                f"objective.kind={run.objective.kind} needs the teacher's score of every candidate, the positive's first, and {source.source} has "
                f"{len(labels or ())} for {1 + len(rows[first].negatives)} candidates; give them as a list in the column `scores`"
            )
        if not isinstance(run.objective, recipe.Cosent) and labels is not None and len(labels) == 1:
            raise BadData(
                f"{source.source} holds scored pairs, and objective.kind={run.objective.kind} would take every pair for a positive; "
                "use objective.kind=cosent, or a file of the positive pairs alone, without scores"
            )
    if mixture:
        mixture.check_batch(run.optimization.batch_size)


def lightning_module(run: recipe.Recipe, encoder: Encoder, steps: int, plan: Plan = SINGLE) -> BiEncoder:
    """The Lightning module of a recipe around an encoder."""
    function, temperature = loss(run.objective, score(run), filters(run, encoder))
    tokens, kept = micro_batching(run.machine, encoder.to(device(run.machine)), plan.ranks_per_node)
    family = ColBERT if run.kind == "colbert" else BiEncoder
    return family(
        encoder=encoder,
        encode=partial(in_chunks, encoder, tokens, kept),
        loss=function,
        temperature=temperature,
        optimizer=replace(optimizer_settings(run.optimization, steps), fused=precision(run.machine) != "fp16"),
        validate=partial(_validation_metrics, encoder, precision(run.machine), micro_batch_tokens(run.machine)),
    )


def _validation_metrics(encoder: Encoder, how: Precision, tokens: int, held_out: RetrievalSet) -> Mapping[str, float]:
    metrics = evaluate(encoder, held_out, name="validation", precision=how, micro_batch_tokens=tokens).metrics
    return {name: float(values.mean()) for name, values in metrics.items()}


def pair_data(run: recipe.Recipe, data: DataSets, encoder: Encoder, steps: int) -> PairData:
    """Training steps in their order, tokenised as the encoder's contract says."""
    make = partial(collate, tokenize=encoder.tokenize, known_positives=known_positives(data.train), negatives_per_query=run.data.negatives_per_query)
    return PairData(Steps(data.train, make, run.seed, run.optimization.batch_size, first=0, last=steps, mixture=data.mixture), data.validation)


def trainer(
    run: recipe.Recipe, folder: RunFolder, steps: int, samples: int, extra: Sequence[lightning.Callback], plan: Plan = SINGLE
) -> lightning.Trainer:
    """Lightning's trainer with our log and progress line, early stopping where the recipe asks for it, and `extra` callbacks."""
    every = run.validation.every_steps or steps_per_epoch(samples, run.optimization.batch_size)
    callbacks = [ProgressLine(run.optimization.batch_size, steps), *extra]
    if run.validation.patience is not None:
        callbacks.append(EarlyStopping(VALIDATION_SCORE, mode="max", patience=run.validation.patience))
    return lightning.Trainer(
        accelerator=accelerator(run.machine),
        strategy=lightning_strategy(plan, accelerator(run.machine)),
        devices=plan.ranks_per_node,
        num_nodes=plan.nodes,
        use_distributed_sampler=False,
        plugins=[lightning_precision(plan, precision(run.machine), accelerator(run.machine))],
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
