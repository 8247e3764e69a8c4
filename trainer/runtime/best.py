"""Keeps the weights of the best validation on disk, to be saved at the end of the run."""

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

    Only weights that are trained are kept; the frozen ones are in the backbone. There is one file,
    replaced at once, and it is the same whatever the strategy: all ranks put sharded weights
    together first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.score: float | None = None
        """The best validation score of trained weights; None before the first validation."""
        self.step = 0
        """Optimizer steps behind the best score."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Has the weights of the last step validated too: Lightning validates when it is told to
        stop.
        """
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Saves the weights when their score is the best so far; a score of NaN never is."""
        score = float(trainer.callback_metrics.get(VALIDATION_SCORE, float("nan")))
        if score > (self.score if self.score is not None else float("-inf")):
            self._save(pl_module, trainer.global_step, score)

    def restore(self, encoder: nn.Module) -> None:
        """Puts the best trained weights into an encoder as it was before training; changes nothing
        where none were validated.
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
