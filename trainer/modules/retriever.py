"""The training step: one module for all families of models.

A bi-encoder, ColBERT, a cross-encoder and a student differ only in their encoder and objective.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from trainer.modules.layer_groups import layer_groups
from trainer.modules.optimizer import OptimizerSettings, adamw, is_projection
from trainer.objectives.objective import Objective
from trainer.scores import exact
from trainer.strategies.gradients import clip_to_global_norm


class Temperature(nn.Module):
    """The divisor of scores: fixed, or learned as its logarithm, so that it stays positive."""

    def __init__(self, value: float, is_learned: bool) -> None:
        super().__init__()
        # The shape is (1,) because sharding strategies cannot split a parameter without dimensions.
        self.log = nn.Parameter(torch.tensor([value]).log(), requires_grad=is_learned)

    def forward(self) -> Float[Tensor, ""]:
        """Returns the temperature."""
        return self.log.exp()[0]


Check = Callable[[int, Mapping[str, float]], None]
"""A function of the step, counted from 0, and its metrics. It raises an error if training must end.
"""


def no_check(step: int, metrics: Mapping[str, float]) -> None:
    """Accepts every step."""


class Retriever(LightningModule):
    """Trains `encoder` with `objective`.

    `micro_batching` passes the texts of a step through the encoder. `validate` evaluates the
    encoder on a validation set and returns metrics by name, so this file does not depend on the
    evaluation of retrieval. `head` contains weights that the objective trains and that are not part
    of the saved model. The encoder's weights whose name `is_head` have the head's learning rate.
    `check` looks at the metrics of a step before the update, and may end the training.
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
        check: Check = no_check,
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
        self.check = check
        self.batch: Batch | None = None
        """The batch of the latest step."""
        self.metrics: dict[str, Tensor] = {}
        """The metrics of the latest step, without graphs, on the device."""
        self._groups: dict[str, list[nn.Parameter]] = {}

    def training_step(self, batch: Batch, _: int) -> Float[Tensor, ""]:
        """Returns the loss of one global batch, the same on every rank."""
        encode = self.micro_batching.for_step(self.global_step, batch.divisions)
        self.batch = batch = replace(batch, step=self.global_step)
        temperature = self.temperature()
        outcome = self.objective(batch, encode, temperature)
        metrics = {"loss": outcome.loss, **outcome.metrics, "temperature": temperature}
        self.metrics = {name: value.detach() for name, value in metrics.items()}
        return outcome.loss

    def configure_gradient_clipping(  # DeepSpeed's optimizer is not one of PyTorch's
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips to the global norm, and logs the step. Raises `NonFiniteStep` before the update if
        the loss or the norm is not finite.
        """
        self._check_all_learn(optimizer)
        if not self._groups:
            self._groups = layer_groups(self, self.is_head)
        norms = clip_to_global_norm(optimizer, gradient_clip_val, self._groups)
        norms_of_groups = {f"gradient_norm_{name}": norm for name, norm in norms.groups.items()}
        # The only wait for the device in a step. Later, or once for several steps, it would be too
        # late: the update would already have used a gradient that is not finite.
        metrics = to_numbers({**self.metrics, "gradient_norm": norms.total, **norms_of_groups})
        norm_is_fine = math.isfinite(metrics["gradient_norm"]) or self._scales_the_loss()
        if not (math.isfinite(metrics["loss"]) and norm_is_fine):
            assert self.batch is not None
            raise NonFiniteStep(self.global_step, metrics, self.batch)
        self.check(self.global_step, metrics)
        metrics["learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        # As tensors on the CPU, which Lightning leaves there.
        self.log_dict({f"train/{name}": torch.tensor(value) for name, value in metrics.items()})

    def validation_step(self, validation_set: Any, _: int) -> None:
        """Logs the retrieval metrics of a validation set."""
        for name, value in self.validate(validation_set).items():
            self.log(f"validation/{name}", value, batch_size=1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Returns AdamW and its schedule."""
        settings = self.optimizer_settings
        return adamw(self.encoder, self.temperature, settings, self.head, self.is_head)

    def _check_all_learn(self, optimizer: Any) -> None:
        """Raises BadModel if a trained weight has no gradient on several ranks.

        DDP does not average gradients while it waits for an unused parameter, and it reports the
        error only at the next step.
        """
        unused_weights = [
            name
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        if unused_weights and ranks() > 1 and isinstance(optimizer, torch.optim.Optimizer):
            raise BadModel(
                f"{len(unused_weights)} of the trained weights take no part in the loss"
                f" ({', '.join(unused_weights[:3])}), so ranks cannot average their gradients;"
                " train fewer weights (model.tuning.kind=lora, or other target_modules), or train"
                " with one process"
            )

    def _scales_the_loss(self) -> bool:
        """Returns True if the loss is scaled, as with fp16.

        A gradient then overflows occasionally, and the scaler skips that update and lowers its
        scale.
        """
        plugin = self.trainer.precision_plugin
        return getattr(plugin, "scaler", None) is not None or plugin.precision == "16-mixed"


def to_numbers(metrics: Mapping[str, Float[Tensor, ""]]) -> dict[str, float]:
    """Returns the metrics as numbers. All of them are copied from the device at once."""
    loss = exact(metrics["loss"])
    values = torch.stack([value.to(loss) for value in metrics.values()])
    return dict(zip(metrics, values.tolist(), strict=True))


class NonFiniteStep(NonFinite):
    """The loss or gradient of a step is not finite. The record contains the step and its rows."""

    def __init__(self, step: int, metrics: Mapping[str, float], batch: Batch) -> None:
        loss, gradient_norm = metrics["loss"], metrics["gradient_norm"]
        super().__init__(
            f"step {step + 1}: the loss is {loss} and the gradient norm is"
            f" {gradient_norm}; no weight was changed. Check the rows listed in non_finite.json; a"
            " lower optimization.learning_rate or machine.precision=fp32 often helps."
        )
        self.record = {
            "step": step + 1,
            "loss": str(loss),
            "gradient_norm": str(gradient_norm),
            "rows": gather_texts(batch.sample_ids),
        }
