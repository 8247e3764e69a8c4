"""The Lightning trainer of a recipe."""

from collections.abc import Sequence

import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import Logger

from trainer.build import hardware
from trainer.kernels.matrix_peak import matrix_peak
from trainer.models.encoder import Encoder
from trainer.modules.throughput import Throughput, TokenCost
from trainer.recipe.schema.families import Recipe
from trainer.retrieval.encoding.encode import AUTOCAST_DTYPES
from trainer.runtime.log import JsonlLogger
from trainer.runtime.progress import TrainingProgress
from trainer.runtime.run_folder import RunFolder
from trainer.strategies.lightning import (
    leave_signals_alone,
    lightning_precision,
    lightning_strategy,
    single_environment,
)
from trainer.strategies.machine.plan import SINGLE, Plan


def lightning_trainer(
    run: Recipe,
    folder: RunFolder,
    steps: int,
    extra: Sequence[lightning.Callback],
    plan: Plan = SINGLE,
    base_score: float | None = None,
    trackers: Sequence[Logger] = (),
    encoder: Encoder | None = None,
) -> lightning.Trainer:
    """Returns a Lightning trainer with log, trackers, progress and `extra` callbacks.

    `base_score` is the best validation score so far. With `encoder`, which is not shared out among
    ranks yet, the throughput of its steps is logged.
    """
    progress = TrainingProgress(run.optimization.batch_size, steps, base_score)
    accelerator = hardware.accelerator(run.machine)
    result = lightning.Trainer(
        accelerator=accelerator,
        strategy=lightning_strategy(plan, accelerator),
        devices=plan.ranks_per_node,
        num_nodes=plan.nodes,
        use_distributed_sampler=False,
        plugins=[
            lightning_precision(plan, hardware.precision(run.machine), accelerator),
            *single_environment(plan),
        ],
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=steps,  # `ValidationTimes` says more
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=run.optimization.gradient_clip_norm,
        callbacks=[progress, *_throughput(run, encoder, progress), *extra],
        logger=[JsonlLogger(folder.log_path), *trackers],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder.path,
    )
    leave_signals_alone(result)
    return result


def _throughput(
    run: Recipe, encoder: Encoder | None, progress: TrainingProgress
) -> list[lightning.Callback]:
    if encoder is None:
        return []
    dtype = AUTOCAST_DTYPES.get(hardware.precision(run.machine), torch.float32)
    peak = matrix_peak(hardware.device(run.machine), dtype)
    cost = TokenCost.of(encoder)
    return [Throughput(progress, cost, peak, encoder.encodes_queries, encoder.is_padded)]
