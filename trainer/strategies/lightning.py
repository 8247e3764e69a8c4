"""A plan as Lightning takes it: the strategy, and the precision that goes with it."""

from typing import Literal

from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.strategies import DDPStrategy, Strategy

from trainer.strategies.deepspeed_settings import settle_device
from trainer.strategies.environment import Plan


def lightning_strategy(plan: Plan, device: str) -> Strategy | str:
    """For `Trainer(strategy=..., devices=plan.ranks_per_node, num_nodes=plan.nodes,
    use_distributed_sampler=False)`.

    Processes are those of the launcher; Lightning starts none. Gradients are averaged over ranks by
    all of them.
    """
    launched = TorchElasticEnvironment()
    match plan.kind:
        case "single":
            return "auto"
        case "ddp":
            return DDPStrategy(cluster_environment=launched, gradient_as_bucket_view=True)
        case "fsdp2":
            from trainer.strategies.fully_sharded import FullyShardedStrategy

            return FullyShardedStrategy(plan.ranks, plan.reshard_after_forward, launched)
        case "zero1" | "zero2" | "zero3":
            settle_device(device)
            from trainer.strategies.zero import ZeroStrategy

            assert plan.deepspeed is not None
            return ZeroStrategy(plan.deepspeed, launched)


def lightning_precision(
    plan: Plan, precision: Literal["fp32", "bf16", "fp16"], device: str
) -> Precision:
    """For `Trainer(plugins=[...])`, in the place of its `precision`: Lightning would refuse or
    change some of these by name.

    fp32 and bf16 mean the same under every strategy: float32 weights, with autocast for bf16. fp16
    needs scaled gradients, which DeepSpeed does with weights in half precision.
    """
    if plan.deepspeed is None:
        return (
            Precision()
            if precision == "fp32"
            else MixedPrecision("bf16-mixed" if precision == "bf16" else "16-mixed", device)
        )
    from trainer.strategies.zero import ZeroPrecision

    return ZeroPrecision(precision, device)
