"""Stores the weights with the best validation score on disk until the end of the run."""

from pathlib import Path

import pytorch_lightning as lightning
from safetensors.torch import load_file
from torch import nn

from trainer.collectives import rank
from trainer.runtime.progress import VALIDATION_SCORE
from trainer.storage.atomic import write_safetensors
from trainer.strategies.weights import full_weights

FILE = "trainable.safetensors"


class KeepBest(lightning.Callback):
    """Writes the trained weights to `folder` after every validation with a new best score.

    Frozen weights are not written, because they are those of the backbone. There is one file, which
    is replaced atomically. It does not depend on the strategy, because sharded weights are gathered
    first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.score: float | None = None
        """The best validation score of trained weights; None before the first validation."""
        self.step = 0
        """Number of optimizer steps before the best score."""

    def on_train_batch_end(self, lightning_trainer: lightning.Trainer, *_: object) -> None:
        """Stops the trainer after the last step, so that Lightning validates its weights too."""
        if lightning_trainer.global_step >= lightning_trainer.max_steps:
            lightning_trainer.should_stop = True

    def on_validation_end(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Saves the weights if their score is the best so far. A score of NaN never is."""
        score = float(lightning_trainer.callback_metrics.get(VALIDATION_SCORE, float("nan")))
        if score > (self.score if self.score is not None else float("-inf")):
            self._save(pl_module, lightning_trainer.global_step, score)

    def restore(self, encoder: nn.Module) -> None:
        """Copies the best trained weights into an encoder in its state before training.

        Changes nothing if no weights were validated.
        """
        if self.score is None:
            return
        weights = load_file(self.folder / FILE)
        for name, parameter in encoder.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(weights[f"encoder.{name}"])

    def _save(self, module: lightning.LightningModule, step: int, score: float) -> None:
        self.step, self.score = step, score
        weights = full_weights(module)
        if rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            metadata = {"step": str(step), VALIDATION_SCORE: repr(score)}
            write_safetensors(self.folder / FILE, weights, metadata)
