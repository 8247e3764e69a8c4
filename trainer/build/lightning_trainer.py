"""The Lightning trainer of a recipe."""

from collections.abc import Sequence

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import EarlyStopping

from trainer.build import hardware
from trainer.build.module import validation_interval
from trainer.recipe.schema.families import Recipe
from trainer.runtime.log import JsonlLogger
from trainer.runtime.progress import VALIDATION_SCORE, TrainingProgress
from trainer.runtime.run_folder import RunFolder
from trainer.runtime.tracking.trackers import tracker_loggers
from trainer.strategies.lightning import lightning_precision, lightning_strategy
from trainer.strategies.machine.plan import SINGLE, Plan


def lightning_trainer(
    run: Recipe,
    folder: RunFolder,
    steps: int,
    samples: int,
    extra: Sequence[lightning.Callback],
    plan: Plan = SINGLE,
    base_score: float | None = None,
) -> lightning.Trainer:
    """Returns a Lightning trainer with log, progress, early stopping and `extra` callbacks.

    `base_score` is the validation score before training.
    """
    progress = TrainingProgress(run.optimization.batch_size, steps, base_score)
    callbacks = [progress, *extra]
    if run.validation.patience is not None:
        callbacks.append(
            EarlyStopping(VALIDATION_SCORE, mode="max", patience=run.validation.patience)
        )
    accelerator = hardware.accelerator(run.machine)
    return lightning.Trainer(
        accelerator=accelerator,
        strategy=lightning_strategy(plan, accelerator),
        devices=plan.ranks_per_node,
        num_nodes=plan.nodes,
        use_distributed_sampler=False,
        plugins=[lightning_precision(plan, hardware.precision(run.machine), accelerator)],
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=validation_interval(run, samples, steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=run.optimization.gradient_clip_norm,
        callbacks=callbacks,
        logger=[
            JsonlLogger(folder.log_path),
            *tracker_loggers(run.trackers, folder.path, run.name, run.model_dump(mode="json")),
        ],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder.path,
    )
