"""Saves the model of a run, with all of the change by training or a smaller share of it."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.build import hardware
from trainer.build.job import Job
from trainer.checkpoints.best import KeepBest
from trainer.collectives import on_first_rank
from trainer.errors import NoSpace
from trainer.models.encoder import Encoder
from trainer.models.families import read_any
from trainer.models.formats.folder import save_encoder
from trainer.progress import phase
from trainer.runtime.console import say
from trainer.runtime.run_folder import RunFolder
from trainer.storage.atomic import DISK_FULL

_TRIES, _RETRY_SECONDS = 3, 5.0
KEPT_GAIN = 0.8
"""The share of the gain in the validation score that the saved share of the change must keep.

What it gives and costs was measured (docs/quality.md): the gain on the test questions stays, and
less of what the model could do before is lost.
"""


@dataclass(frozen=True)
class ModelSaver:
    """Writes models with the kept weights of a run.

    The frozen weights are those in memory, so base and adapter belong together even if the files of
    the base have changed.
    """

    job: Job
    folder: RunFolder
    best: KeepBest
    encoder: Encoder
    """Gets the weights that are saved. Only the first rank uses it."""

    def save(self, share: float) -> None:
        """Writes `model/` with this share of the change. Raises NoSpace if no disk takes it."""
        self._save(self.folder.model, share)

    def choose_share(self, base_score: float, tuned_score: float) -> tuple[float, float | None]:
        """Returns the share of the change to save and its validation score, None for all of it.

        Each candidate is measured from its files, as a model that ranks share out cannot be changed
        in memory.
        """
        candidate = self.folder.checkpoints / "candidate"
        device = hardware.device(self.job.recipe.machine)

        def score_of(share: float) -> float:
            name = f"validation with {_percent(share)} of the change"
            with phase(name, kind="validation"):
                on_first_rank(lambda: self._save(candidate, share))
                encoder = read_any(str(candidate)).to(device)
                return self.job.evaluate(encoder, self.job.data.validation, name=name).mean()

        share, score = choose_share(score_of, base_score, tuned_score)
        on_first_rank(lambda: shutil.rmtree(candidate))
        if share == 1.0:
            return share, None
        say(f"{_percent(share)} of the change is saved: validation nDCG@10 {score:.3f}")
        return share, score

    def _save(self, folder: Path, share: float) -> None:
        self.best.restore(self.encoder, share)
        has_former = folder.exists()  # of an attempt that Ctrl-C has ended
        for attempt in range(_TRIES):
            try:
                return save_encoder(self.encoder, folder, replace=has_former)
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                say(f"warning: the model cannot be written ({error.strerror}); trying again")
                time.sleep(_RETRY_SECONDS * (attempt + 1))
        raise NoSpace(
            f"there is no room for the model in {folder}; {self._rescue()}make room and run the"
            " same command with --resume"
        )

    def _rescue(self) -> str:
        """Saves the model in the folder for temporary files, and says where."""
        folder = Path(tempfile.mkdtemp(prefix=f"nearfar-{self.job.recipe.name}-")) / "model"
        try:
            save_encoder(self.encoder, folder)
        except OSError:
            return ""
        return f"the model is in {folder} instead; move it to a safe place, or "


def choose_share(
    score_of: Callable[[float], float], base_score: float, tuned_score: float
) -> tuple[float, float]:
    """Returns the share of the change to save, and its validation score.

    Half needs no proof, as few validation questions tell shares badly apart: another share is saved
    only if half keeps less than KEPT_GAIN of the gain, or if less than half scores above all.
    `score_of` measures the model with a share of the change (`interpolate`).

    >>> choose_share({0.7: 0.78, 0.5: 0.79, 0.3: 0.70}.__getitem__, 0.6, 0.8)
    (0.5, 0.79)
    """
    minimum = base_score + KEPT_GAIN * (tuned_score - base_score)
    half_score = score_of(0.5)
    if half_score < minimum:
        score = score_of(0.7)
        return (0.7, score) if score >= minimum else (1.0, tuned_score)
    score = score_of(0.3)
    return (0.3, score) if score > max(half_score, tuned_score) else (0.5, half_score)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
