"""Turns a plan into Lightning's strategy and precision plugin."""

from typing import Literal

from pytorch_lightning.plugins.environments import TorchElasticEnvironment
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
            return DDPStrategy(cluster_environment=environment, gradient_as_bucket_view=True)
        case "fsdp2":
            from trainer.strategies.fully_sharded import FullyShardedStrategy

            return FullyShardedStrategy(plan.ranks, plan.reshard_after_forward, environment)
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
