"""Reports the progress of training to the listener of `trainer.progress`, step by step."""

from contextlib import ExitStack
from typing import Any

import pytorch_lightning as lightning
import torch

from trainer.progress import Phase, phase
from trainer.runtime.console import say

LOSS, LEARNING_RATE, VALIDATION_SCORE = "train/loss", "train/learning_rate", "validation/ndcg@10"


class TrainingProgress(lightning.Callback):
    """Opens a phase for the training steps, with an inner phase for each validation.

    It prints the validation scores and logs the pairs per second of the latest steps, without the
    time between two steps. `best` is the score before training.
    """

    def __init__(self, batch_size: int, total_steps: int, best: float | None = None) -> None:
        self.batch_size, self.total_steps, self.best = batch_size, total_steps, best
        self._phases = ExitStack()
        self._validation = ExitStack()
        self._training: Phase | None = None

    @property
    def pairs_per_second(self) -> float:
        """Rate of the latest steps; 0 before the first step."""
        rate = self._training.units_per_second if self._training is not None else None
        return self.batch_size * (rate or 0.0)

    def on_train_start(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Begins the phase."""
        steps = phase("training", self.total_steps, "steps", rate=(self.batch_size, "pairs"))
        self._training = self._phases.enter_context(steps)
        self._training.position = lightning_trainer.global_step  # of a continued run

    def on_train_batch_end(
        self,
        lightning_trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Counts the step and logs the rate."""
        assert self._training is not None
        metrics = lightning_trainer.callback_metrics
        loss, rate = metrics.get(LOSS), metrics.get(LEARNING_RATE)
        note = f"loss {float(loss):.3f}" if loss is not None else ""
        if rate is not None:
            note += f"  learning rate {float(rate):.1e}"
        self._training.advance(lightning_trainer.global_step - self._training.position, note)
        # Lightning would copy a plain number to the device, and back for the log.
        pl_module.log("train/pairs_per_second", torch.tensor(self.pairs_per_second))

    def on_validation_start(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Begins the phase of a validation."""
        self._validation.enter_context(phase("validation"))

    def on_validation_end(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Ends the phase and prints the score."""
        self._validation.close()
        score = lightning_trainer.callback_metrics.get(VALIDATION_SCORE)
        if score is None or lightning_trainer.sanity_checking:
            return
        value = float(score)
        is_best = self.best is None or value > self.best
        self.best = value if is_best else self.best
        note = "best so far" if is_best else f"best {self.best:.3f}"
        say(f"validation at step {lightning_trainer.global_step}: nDCG@10 {value:.3f} ({note})")

    def on_train_end(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Ends the phase."""
        self._close()

    def on_exception(
        self,
        lightning_trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Ends the phases."""
        self._close()

    def _close(self) -> None:
        self._validation.close()
        self._phases.close()
