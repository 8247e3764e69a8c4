"""Keeps the weights of the best validation, on disk and for the end of the run."""

from pathlib import Path

import pytorch_lightning as lightning
from jaxtyping import Shaped
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.runtime.progress import VALIDATION_SCORE

FILE = "trainable.safetensors"


class KeepBest(lightning.Callback):
    """Writes the trained weights to `folder` whenever validation reaches a new best, and puts them back when asked.

    A validation before the first step is the base to beat, and nothing is written. Only weights that are trained are kept; the frozen ones are in the backbone. One file, replaced whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step: int | None = None
        self.score = self.base = float("-inf")
        self.validated: int | None = None

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Saves when the score is the best so far."""
        score = float(trainer.callback_metrics.get(VALIDATION_SCORE, float("nan")))
        self.validated = trainer.global_step
        if trainer.global_step == 0:
            self.base = score
        elif score > self.score:  # never true for NaN
            self.score, self.step = score, trainer.global_step
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f".{FILE}.partial"
            save_file(trained_weights(pl_module), partial, metadata={"step": str(self.step), VALIDATION_SCORE: repr(score)})
            partial.replace(self.folder / FILE)

    def restore(self, module: nn.Module) -> bool:
        """Puts the best weights into `module`; False, and nothing done, when no validation took place."""
        if self.step is None:
            return False
        weights = load_file(self.folder / FILE)
        for name, parameter in module.named_parameters():
            if name in weights:
                parameter.data.copy_(weights[name])
        return True


def trained_weights(module: nn.Module) -> dict[str, Shaped[Tensor, "..."]]:
    """Every parameter that is trained, by name, on the CPU."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in module.named_parameters() if parameter.requires_grad}
