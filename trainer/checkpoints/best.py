"""Keeps the weights with the best validation score, and those from before training, on disk."""

from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from jaxtyping import Shaped
from safetensors.torch import load_file
from torch import Tensor

from trainer.collectives import integers_of_first_rank
from trainer.errors import BadCheckpoint
from trainer.models.blend import interpolate
from trainer.models.encoder import Encoder
from trainer.runtime.console import say
from trainer.runtime.progress import VALIDATION_SCORE
from trainer.storage.atomic import write_safetensors
from trainer.storage.manifest import digest_file
from trainer.strategies.weights import full_weights

_TEMPERATURE, _BIAS = "temperature.log", "head.value"
"""The names of what a module (`Retriever`) learns beside its encoder."""
NamedWeights = dict[str, Shaped[Tensor, "..."]]


class KeepBest(lightning.Callback):
    """Writes the trained weights to `folder` after every validation with a new best score.

    Frozen weights are not written, because they are those of the backbone. The files do not depend
    on the strategy, because sharded weights are gathered first. With `patience`, the run ends after
    so many validations without a better score, of those from step `patience_start` on. The score
    before training does not count there.
    """

    def __init__(self, folder: Path, patience: int | None = None, patience_start: int = 0) -> None:
        self.folder, self.patience, self.patience_start = folder, patience, patience_start
        self.score: float | None = None
        """The best validation score of trained weights; None before the first validation."""
        self.step = 0
        """Number of optimizer steps before the best score."""
        self.validations_without_improvement = 0
        self._digests: dict[str, str] = {}
        self._waiting_weights: dict[int, NamedWeights] = {}
        """Weights that the disk did not take."""

    def keep_base(self, module: lightning.LightningModule) -> None:
        """Writes the weights from before training. All ranks must call it."""
        self._keep(full_weights(module), 0)

    def on_train_batch_end(self, lightning_trainer: lightning.Trainer, *_: object) -> None:
        """Stops the trainer after the last step, so that Lightning validates its weights too."""
        if lightning_trainer.global_step >= lightning_trainer.max_steps:
            lightning_trainer.should_stop = True

    def on_validation_end(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Records the score, and stops the trainer if `patience` has run out."""
        score = float(lightning_trainer.callback_metrics.get(VALIDATION_SCORE, float("nan")))
        self.record(score, lightning_trainer.global_step, pl_module)
        if self.is_patience_over:
            lightning_trainer.should_stop = True

    def record(self, score: float, step: int, module: lightning.LightningModule) -> None:
        """Keeps the weights of the module if their score is the best. A score of NaN never is."""
        if not score > (self.score if self.score is not None else float("-inf")):
            self.validations_without_improvement += step >= self.patience_start
            return
        self.score, self.step, self.validations_without_improvement = score, step, 0
        self._keep(full_weights(module), step)

    @property
    def is_patience_over(self) -> bool:
        """Whether the run ends because the score has not become better."""
        return self.patience is not None and self.validations_without_improvement >= self.patience

    def restore(self, encoder: Encoder, share: float = 1.0) -> None:
        """Copies the best weights into an encoder, or those with this share of the change since
        before training (`interpolate`). A learned temperature goes where the model has a place.

        Raises BadCheckpoint if their file was altered. Changes nothing if none were kept.
        """
        base = self._weights_of(0) if share < 1 or self.score is None else {}
        best = self._weights_of(self.step) if share > 0 and self.score is not None else base
        weights = interpolate(base, best, share)
        for name, parameter in encoder.named_parameters():
            if f"encoder.{name}" in weights:
                parameter.data.copy_(weights[f"encoder.{name}"])
        if share > 0 and self.step > 0 and _TEMPERATURE in weights:
            encoder.keep_scale(-weights[_TEMPERATURE], weights.get(_BIAS))

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint needs to know: score, step, file and its SHA-256."""
        return {
            "score": self.score,
            "step": self.step,
            "validations_without_improvement": self.validations_without_improvement,
            "files": dict(self._digests),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from the state in a checkpoint."""
        self.score, self.step = state_dict["score"], int(state_dict["step"])
        self.validations_without_improvement = int(state_dict["validations_without_improvement"])
        self._digests = dict(state_dict["files"])

    def save_unsaved(self) -> None:
        """Tries again to write weights that the disk did not take."""
        for step, weights in list(self._waiting_weights.items()):
            self._keep(weights, step)

    def _keep(self, weights: NamedWeights, step: int) -> None:
        (is_saved,) = integers_of_first_rank(lambda: [self._write(weights, step)])
        self._waiting_weights.pop(step, None)
        if not is_saved:
            self._waiting_weights[step] = weights
        needed_names = {file_name(0), file_name(self.step)}
        self._digests = {
            name: self._digests[name] for name in self._digests if name in needed_names
        }

    def _write(self, weights: NamedWeights, step: int) -> bool:
        path = self.folder / file_name(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_safetensors(path, weights, {"step": str(step)})
        except OSError as error:
            say(
                f"warning: the best weights cannot be written to {path} ({error.strerror}); they"
                " stay in memory, and are written with the next checkpoint"
            )
            return False
        self._digests[path.name] = str(digest_file(path)["sha256"])
        return True

    def _weights_of(self, step: int) -> NamedWeights:
        return self._waiting_weights.get(step) or self._read(step)

    def _read(self, step: int) -> NamedWeights:
        path = self.folder / file_name(step)
        self._check(path)
        return load_file(path) if path.exists() else {}

    def _check(self, path: Path) -> None:
        if path.name not in self._digests:
            return
        if not path.exists():
            raise BadCheckpoint(f"{path}, the weights for model/, is missing; {_ADVICE}")
        if digest_file(path)["sha256"] != self._digests[path.name]:
            raise BadCheckpoint(f"{path}, the weights for model/, was altered; {_ADVICE}")


_ADVICE = "restore it from a copy and continue with --resume, or start again with --replace"


def file_name(step: int) -> str:
    """Returns the name of the file with the weights of a step."""
    return f"step-{step:09}.safetensors"
