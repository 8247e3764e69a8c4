"""Lets a Lightning trainer continue after a number of steps."""

from typing import Any

import pytorch_lightning as lightning


def continue_after(lightning_trainer: lightning.Trainer, step: int) -> None:
    """Sets the counters of a trainer that has not started: its next step is number `step`, from 0.

    The data loader must begin there too.
    """
    loop = lightning_trainer.fit_loop.epoch_loop
    counters = (
        loop.batch_progress.total,
        loop.scheduler_progress.total,
        loop.automatic_optimization.optim_progress.optimizer.step.total,
    )
    for counter in counters:
        for name in ("ready", "started", "processed", "completed"):
            if hasattr(counter, name):
                setattr(counter, name, step)
    loop._batches_that_stepped = step


def set_schedules(lightning_trainer: lightning.Trainer, step: int) -> None:
    """Sets the learning rates to those after `step` steps. Call it when training starts."""
    for config in lightning_trainer.lr_scheduler_configs:
        schedule: Any = config.scheduler
        schedule.last_epoch, schedule._step_count = step, step + 1
        rates = [
            base * factor(step)
            for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates


def arrange_gradients(lightning_trainer: lightning.Trainer, batch: Any) -> None:
    """Makes DDP add gradients in the order in which an uninterrupted run adds them.

    After the first backward pass of a process, DDP arranges the gradients anew, in the order in
    which they come. With more than two ranks, sums then round differently. This runs the pass of
    `batch` once and throws its gradients away. All ranks must call it before their first step.
    """
    strategy: Any = lightning_trainer.strategy
    module: Any = lightning_trainer.lightning_module
    optimizer = lightning_trainer.optimizers[0]
    module.log = module.log_dict = lambda *_, **__: None
    try:
        strategy.backward(strategy.training_step(batch, 0), optimizer)
    finally:
        del module.log, module.log_dict
    optimizer.zero_grad()


def loss_scale(lightning_trainer: lightning.Trainer) -> dict[str, float | int | bool]:
    """Returns the state of the loss scaling of fp16; empty for other precisions."""
    scaler = _scaler(lightning_trainer)
    if scaler is None:
        return {}
    state = scaler.state_dict() if hasattr(scaler, "state_dict") else vars(scaler)
    return {name: value for name, value in state.items() if isinstance(value, float | int)}


def set_loss_scale(
    lightning_trainer: lightning.Trainer, state: dict[str, float | int | bool]
) -> None:
    """Continues with a loss scaling, if this run has one too."""
    scaler = _scaler(lightning_trainer)
    if scaler is None or not state:
        return
    if hasattr(scaler, "load_state_dict"):
        scaler.load_state_dict({**scaler.state_dict(), **state})
        return
    for name, value in state.items():
        if name in vars(scaler):
            setattr(scaler, name, value)


def _scaler(lightning_trainer: lightning.Trainer) -> Any:
    """Returns the object that scales the loss: Lightning's, or that of DeepSpeed's optimizer."""
    plugin: Any = lightning_trainer.precision_plugin
    optimizer: Any = lightning_trainer.optimizers[0]
    scaler = getattr(plugin, "scaler", None) or getattr(optimizer, "loss_scaler", None)
    return scaler if plugin.precision == "16-mixed" else None
