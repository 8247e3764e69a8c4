"""The plan of a run: its processes, and how they share weights and gradients. Imports no torch."""

from dataclasses import dataclass
from socket import gethostname
from typing import Literal

from trainer.errors import BadMachine
from trainer.strategies.machine.deepspeed_settings import DeepSpeedSettings

StrategyKind = Literal["single", "ddp", "fsdp2", "zero1", "zero2", "zero3"]
HalfPrecision = Literal["bf16", "fp16"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Plan:
    """How many processes share a run, and how they share its weights and gradients."""

    kind: StrategyKind
    ranks: int
    nodes: int
    ranks_per_node: int
    precision: HalfPrecision | None = None
    """None: the recipe decides. accelerate does not distinguish `no` from a missing value."""
    accelerator: Device | None = None
    """None: the recipe decides, or there is no machine file."""
    deepspeed: DeepSpeedSettings | None = None
    reshard_after_forward: bool = True
    """FSDP2 only: whether gathered weights are freed between forward and backward pass."""
    replicas: int | None = None
    """FSDP2 only: copies of the sharded weights. None: `weight_copies` decides."""

    @property
    def weight_copies(self) -> int:
        """FSDP2 only: copies of the weights, each sharded among as many ranks.

        There is one per node, so that weights are gathered within a node and only gradients cross
        the network. If a node has one rank, all ranks share one copy.
        """
        if self.replicas is not None:
            return self.replicas
        return self.nodes if self.ranks_per_node > 1 else 1

    @property
    def ranks_per_copy(self) -> int:
        """Ranks that share one copy of weights, gradients and optimizer state; 1: each has all."""
        if self.kind == "fsdp2":
            return self.ranks // self.weight_copies
        return self.ranks if self.kind == "zero3" else 1

    @property
    def is_replicated(self) -> bool:
        """True if each rank has all weights, gradients and optimizer state: one process, or DDP."""
        return self.kind in ("single", "ddp")


SINGLE = Plan("single", 1, 1, 1)
"""The plan of a single process."""


def check_quantized_weights(plan: Plan, quantize_4bit: bool) -> None:
    """Raises BadMachine if weights are in 4 bits and the plan shards them."""
    if quantize_4bit and plan.kind in ("fsdp2", "zero3"):
        raise BadMachine(
            f"the machine file is for {plan.kind}, which shards the weights among processes, but"
            " model.tuning.quantize_4bit=true packs them into bytes; nobody has trained this"
            " combination yet, so its result is not known. Use a machine file for DDP, since 4-bit"
            " weights need an eighth of the memory, or set model.tuning.quantize_4bit=false"
        )


def check_requirements(plan: Plan) -> None:
    """Raises BadMachine if this machine lacks GPUs or the package deepspeed that the plan needs."""
    if plan.deepspeed is not None:
        from importlib.util import find_spec

        if find_spec("deepspeed") is None:
            raise BadMachine(
                f"the machine file needs DeepSpeed ({plan.kind}), which is not installed; "
                "pip install 'nearfar[deepspeed]', or use a machine file for FSDP2 or DDP"
            )
    if plan.accelerator == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        if gpus < plan.ranks_per_node:
            raise BadMachine(
                f"the machine file is for {plan.ranks_per_node} GPUs per node (use_cpu: false), but"
                f" PyTorch finds {gpus or 'none'} on this machine ({gethostname()}); use a file"
                " with use_cpu: true, such as launch/accelerate/cpu-2-ddp.yaml, or fewer processes"
            )
