"""Turns a plan into Lightning's strategy and precision plugin."""

from typing import Any, Literal

import pytorch_lightning as lightning
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.strategies import DDPStrategy, Strategy

from trainer.strategies.machine.deepspeed_settings import set_deepspeed_device
from trainer.strategies.machine.plan import Plan


def lightning_strategy(plan: Plan, device: str) -> Strategy | str:
    """Returns the strategy for `Trainer(strategy=..., devices=plan.ranks_per_node,
    num_nodes=plan.nodes, use_distributed_sampler=False)`.

    The launcher has started the processes, so Lightning starts none. Every strategy averages the
    gradients over the ranks.
    """
    environment = TorchElasticEnvironment()
    match plan.kind:
        case "single":
            return "auto"
        case "ddp":
            return DDPStrategy(
                cluster_environment=environment,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,  # at every step; no buffer of a model changes
            )
        case "fsdp2":
            from trainer.strategies.fully_sharded import FullyShardedStrategy

            return FullyShardedStrategy(plan, environment)
        case "zero1" | "zero2" | "zero3":
            set_deepspeed_device(device)
            from trainer.strategies.zero import ZeroStrategy

            assert plan.deepspeed is not None
            return ZeroStrategy(plan.deepspeed, environment)


def lightning_precision(
    plan: Plan, precision: Literal["fp32", "bf16", "fp16"], device: str
) -> Precision:
    """Returns the plugin for `Trainer(plugins=[...])`.

    It replaces the argument `precision` of the trainer, which does not accept all of these names.
    fp32 and bf16 mean the same in every strategy: float32 weights, with autocast for bf16. fp16
    needs scaled gradients, for which DeepSpeed keeps the weights in half precision.
    """
    if plan.deepspeed is None:
        return (
            Precision()
            if precision == "fp32"
            else MixedPrecision("bf16-mixed" if precision == "bf16" else "16-mixed", device)
        )
    from trainer.strategies.zero import ZeroPrecision

    return ZeroPrecision(precision, device)


def single_environment(plan: Plan) -> list[LightningEnvironment]:
    """Returns the environment of a single process, for `Trainer(plugins=[...])`.

    Otherwise Lightning would find a Slurm job by itself, store a pickle and requeue the job.
    """
    return [LightningEnvironment()] if plan.kind == "single" else []


def leave_signals_alone(lightning_trainer: lightning.Trainer) -> None:
    """Prevents the trainer from replacing signal handlers; `trainer.runtime.watch` has them.

    Lightning's handler of SIGTERM ends the process with exit code 0, or waits for other ranks in
    the middle of a step. It also asks all ranks at every step, for which it waits for the GPU.
    """
    lightning_trainer._signal_connector = _NoSignals()  # type: ignore[assignment]
    loop = lightning_trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


class _NoSignals:
    """Stands in for Lightning's `_SignalConnector`."""

    received_sigterm = False

    def register_signal_handlers(self) -> None:
        """Does nothing."""

    def teardown(self) -> None:
        """Does nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
