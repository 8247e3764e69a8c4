"""The training step: one module for every family of models.

A bi-encoder, ColBERT, a cross-encoder and a student differ in the encoder and the objective that
they are given, and in nothing else.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.collectives import gather_texts, ranks
from trainer.errors import BadModel, NonFinite
from trainer.microbatches import MicroBatching
from trainer.modules.optimizer import OptimizerSettings, adamw, is_projection
from trainer.objectives.objective import Objective
from trainer.strategies.gradients import clip_to_global_norm


class Temperature(nn.Module):
    """What scores are divided by: fixed, or learned as its logarithm, which keeps it positive."""

    def __init__(self, value: float, is_learned: bool) -> None:
        super().__init__()
        # Shape (1,): sharding strategies cannot split a parameter of no dimensions.
        self.log = nn.Parameter(torch.tensor([value]).log(), requires_grad=is_learned)

    def forward(self) -> Float[Tensor, ""]:
        """The temperature."""
        return self.log.exp()[0]


class Retriever(LightningModule):
    """Trains `encoder` by `objective`.

    `micro_batching` takes a step's texts through the encoder. `validate` measures the encoder on a
    held-out set and returns metrics by name; it is given so that this file knows nothing of how
    retrieval is evaluated. `head` is what the objective trains beside the encoder and the model
    does not keep. Weights of the encoder whose name `is_head` have the head's learning rate.
    """

    def __init__(
        self,
        encoder: nn.Module,
        micro_batching: MicroBatching,
        objective: Objective,
        temperature: Temperature,
        optimizer: OptimizerSettings,
        validate: Callable[[Any], Mapping[str, float]],
        head: nn.Module | None = None,
        is_head: Callable[[str], bool] = is_projection,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.micro_batching = micro_batching
        self.objective = objective
        self.temperature = temperature
        self.optimizer_settings = optimizer
        self.validate = validate
        self.head = head
        self.is_head = is_head

    def training_step(self, batch: Batch, _: int) -> Float[Tensor, ""]:
        """The loss of one global batch, the same on every rank."""
        encode = self.micro_batching.for_step(self.global_step)
        outcome = self.objective(batch, encode, self.temperature())
        self.current = Step(outcome.loss.detach(), batch.sample_ids)
        metrics = {"loss": outcome.loss, **outcome.metrics, "temperature": self.temperature()}
        self.log_dict({f"train/{name}": value.detach() for name, value in metrics.items()})
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return outcome.loss

    def configure_gradient_clipping(  # DeepSpeed's optimizer is none of PyTorch's
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips to the global norm, and stops the run before the update where the loss or the norm
        is not finite.
        """
        self._check_all_learn(optimizer)
        norm = float(clip_to_global_norm(optimizer, gradient_clip_val))
        norm_is_fine = math.isfinite(norm) or self._scales_the_loss()
        if not (torch.isfinite(self.current.loss) and norm_is_fine):
            raise NonFiniteStep(self.global_step, self.current, norm)
        self.gradient_norm = norm

    def on_train_batch_end(self, *_: Any) -> None:
        """Logs what the update has seen."""
        self.log("train/gradient_norm", self.gradient_norm)

    def validation_step(self, validation_set: Any, _: int) -> None:
        """Retrieval metrics on held-out queries."""
        for name, value in self.validate(validation_set).items():
            self.log(f"validation/{name}", value, batch_size=1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and its schedule."""
        settings = self.optimizer_settings
        return adamw(self.encoder, self.temperature, settings, self.head, self.is_head)

    def _check_all_learn(self, optimizer: Any) -> None:
        """DDP takes no mean while it waits for a parameter that nothing uses, and says so only at
        the next step.
        """
        unused_weights = [
            name
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        if unused_weights and ranks() > 1 and isinstance(optimizer, torch.optim.Optimizer):
            raise BadModel(
                f"{len(unused_weights)} of the trained weights take no part in the loss"
                f" ({', '.join(unused_weights[:3])}), and ranks cannot take the mean of their"
                " gradients; train fewer weights (model.tuning.kind=lora, or other"
                " target_modules), or on one process"
            )

    def _scales_the_loss(self) -> bool:
        """In fp16 an overflowing gradient is expected now and then: the scaler skips that update
        and lowers its scale.
        """
        plugin = self.trainer.precision_plugin
        return getattr(plugin, "scaler", None) is not None or plugin.precision == "16-mixed"


@dataclass(frozen=True, slots=True)
class Step:
    """What is remembered of a step until its update."""

    loss: Float[Tensor, ""]
    sample_ids: tuple[str, ...]


class NonFiniteStep(NonFinite):
    """Names the step and the rows whose loss or gradient is not finite."""

    def __init__(self, step: int, current: Step, gradient_norm: float) -> None:
        super().__init__(
            f"step {step + 1}: the loss is {float(current.loss)} and the gradient norm"
            f" {gradient_norm}; no weight was changed. Look at the rows named in non_finite.json; a"
            " lower optimization.learning_rate or machine.precision=fp32 often helps."
        )
        self.record = {
            "step": step + 1,
            "loss": str(float(current.loss)),
            "gradient_norm": str(gradient_norm),
            "rows": gather_texts(current.sample_ids),
        }
