"""Keeps the weights of the best validation, on disk and for the end of the run."""

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
    """Writes the trained weights to `folder` whenever validation reaches a new best, and puts them
    into an encoder when asked.

    `base` is the score to beat, measured before the first step. Only weights that are trained are
    kept; the frozen ones are in the backbone. One file, replaced whole, and the same whatever the
    strategy: sharded weights are put together first, by all ranks.
    """

    def __init__(self, folder: Path, base: float) -> None:
        self.folder = folder
        self.step: int | None = None
        self.score = float("-inf")
        self.base = base

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Has the weights of the last step validated too: Lightning validates when it is told to
        stop.
        """
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Saves when the score is the best so far."""
        score = float(trainer.callback_metrics.get(VALIDATION_SCORE, float("nan")))
        if score > self.score:  # never true for NaN
            self._save(pl_module, trainer.global_step, score)

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Saves what there is when no validation took place."""
        if self.step is None and trainer.global_step > 0:
            self._save(pl_module, trainer.global_step, self.score)

    def restore(self, encoder: nn.Module) -> bool:
        """Puts the best weights into an encoder as it was before training; False, and nothing done,
        when no step took place.
        """
        if self.step is None:
            return False
        weights = load_file(self.folder / FILE)
        for name, parameter in encoder.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(weights[f"encoder.{name}"])
        return True

    def _save(self, module: lightning.LightningModule, step: int, score: float) -> None:
        self.step, self.score = step, score
        weights = full_weights(module)
        if rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            metadata = {"step": str(step), VALIDATION_SCORE: repr(score)}
            write_safetensors(self.folder / FILE, weights, metadata)
