"""What a launcher starts: one step of gradient descent a case under the strategy that the launcher
asks for. `torch.save`s what each rank saw.

accelerate launch --config_file FILE tests/strategies/one_step.py TOY_MODEL_FOLDER OUTPUT_FOLDER
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from matrix import MICRO_BATCHES, TEMPERATURE, batch_of, encoder_of, objective_of
from torch.utils.data import DataLoader

from trainer.collectives import rank, ranks
from trainer.errors import NonFinite
from trainer.microbatches import in_microbatches
from trainer.strategies.gradients import clip_to_global_norm
from trainer.strategies.lightning import lightning_precision, lightning_strategy
from trainer.strategies.machine.environment import plan_from_environment
from trainer.strategies.machine.plan import Plan, check_requirements
from trainer.strategies.process_group import process_group
from trainer.strategies.weights import full_weights

RATE = 1e4
"""So large that the old weights do not round the update."""
CASES: dict[str, dict[str, Any]] = {
    "lora, whole": {"tuning": "lora", "micro": "whole"},
    "lora, micro-batched": {"tuning": "lora", "micro": "micro-batched"},
    "lora, partly kept": {"tuning": "lora", "micro": "partly kept"},
    "full, micro-batched": {"tuning": "full", "micro": "micro-batched"},
    "full, maxsim": {"tuning": "full", "micro": "partly kept", "score": "maxsim"},
    "clipped": {"tuning": "lora", "micro": "micro-batched", "clip": 0.01},
    "bf16": {"tuning": "lora", "micro": "micro-batched", "precision": "bf16"},
    "non-finite": {"tuning": "lora", "micro": "micro-batched", "times": float("inf")},
}


class OneStep(lightning.LightningModule):
    """An encoder that is called for queries and documents in micro-batches, and a temperature
    of shape (1,).
    """

    def __init__(self, folder: Path, tuning: str, micro: str, score: str, times: float) -> None:
        super().__init__()
        self.encoder = encoder_of(folder, score, tuning)
        self.log_temperature = torch.nn.Parameter(torch.tensor([TEMPERATURE]).log())
        self.micro, self.score, self.times = micro, score, times
        self.seen: dict[str, Any] = {}

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        encode = in_microbatches(self.encoder, **MICRO_BATCHES[self.micro])  # type: ignore[arg-type]
        loss = objective_of("contrastive", self.score)(
            batch, encode, self.log_temperature.exp()[0]
        ).loss
        self.seen["loss"] = float(loss)
        return loss * self.times

    def validation_step(self, batch: Any, _: int) -> None:
        self.seen.setdefault("vectors", []).append(self.encoder(batch.queries).float().cpu())

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        self.seen["norm"] = float(clip_to_global_norm(optimizer, gradient_clip_val).total)
        if not torch.isfinite(torch.tensor(self.seen["norm"])):
            raise NonFinite("the gradient is not finite")

    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD([{"params": parameters[::2]}, {"params": parameters[1::2]}], lr=RATE)


def one_step(
    plan: Plan,
    folder: Path,
    tuning: str,
    micro: str,
    score: str = "dot",
    clip: float | None = None,
    precision: Any = "fp32",
    times: float = 1.0,
) -> dict[str, Any]:
    module = OneStep(folder, tuning, micro, score, times)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    data = DataLoader([batch_of(module.encoder, rank(), ranks())], batch_size=None)
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy=lightning_strategy(plan, "cpu"),
        plugins=[lightning_precision(plan, precision, "cpu")],
        devices=plan.ranks_per_node,
        num_nodes=plan.nodes,
        max_steps=1,
        gradient_clip_val=clip,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
    )
    trainer.validate(module, data, verbose=False)
    try:
        trainer.fit(module, data)
    except NonFinite as error:
        module.seen["refused"] = str(error)
    after = full_weights(module)
    everything = full_weights(module, trained_only=False)
    trainer.validate(module, data, verbose=False)
    return module.seen | {
        "gradient": {
            name: (before[name].double() - value.double()) / RATE for name, value in after.items()
        },
        "names": list(before),
        "all_names": list(everything),
        "unchanged": all(
            torch.equal(before[name], value) for name, value in everything.items() if name in before
        ),
    }


def main(folder: Path, output: Path, wanted: list[str]) -> None:
    plan = plan_from_environment(os.environ)
    check_requirements(plan)
    with process_group(plan, "cpu"):
        found: dict[str, Any] = {"plan": asdict(plan)}
        for name in wanted or CASES:
            found[name] = one_step(plan, folder, **CASES[name])
        torch.save(found, output / f"rank-{rank()}-of-{ranks()}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
