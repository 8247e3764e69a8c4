"""Saves the model of a run, with all of the change by training or a smaller share of it."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from trainer.build import hardware
from trainer.build.job import Job
from trainer.checkpoints.best import KeepBest
from trainer.collectives import on_first_rank
from trainer.errors import NoSpace
from trainer.evaluation.results import MAIN_METRIC
from trainer.evaluation.significance import CERTAIN, paired_test
from trainer.models.encoder import Encoder
from trainer.models.families import read_any
from trainer.models.formats.folder import save_encoder
from trainer.progress import phase
from trainer.runtime.console import say
from trainer.runtime.run_folder import RunFolder
from trainer.storage.atomic import DISK_FULL

_TRIES, _RETRY_SECONDS = 3, 5.0
KEPT_GAIN = 0.8
"""The share of the gain in the validation score with which half or 0.7 needs no test.

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

        def values_of(share: float) -> Float64[np.ndarray, " query"]:
            name = f"validation with {_percent(share)} of the change"
            with phase(name, kind="validation"):
                on_first_rank(lambda: self._save(candidate, share))
                encoder = read_any(str(candidate)).to(device)
                result = self.job.evaluate(encoder, self.job.data.validation, name=name)
                return result.metrics[MAIN_METRIC]

        share, score = choose_share(values_of, base_score, tuned_score)
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
    values_of: Callable[[float], Float64[np.ndarray, " query"]],
    base_score: float,
    tuned_score: float,
) -> tuple[float, float]:
    """Returns the share of the change to save, and its validation score.

    Few validation questions tell shares badly apart, so half needs no proof. If it keeps KEPT_GAIN
    of the gain, 0.3 is saved only where a paired test proves it better. If not, half is saved where
    it gains and is not proven worse than all of the change; else 0.7 where it keeps as much, or by
    the same test; else all. `values_of` measures the model with a share of the change
    (`interpolate`).

    >>> values = {share: np.array([share, 0.9 - share]) for share in (0.3, 0.5)}
    >>> choose_share(values.__getitem__, 0.1, 0.45)
    (0.5, 0.45)
    """
    minimum = base_score + KEPT_GAIN * (tuned_score - base_score)
    half_values = values_of(0.5)
    if half_values.mean() >= minimum:
        small_values = values_of(0.3)
        if _is_better(small_values, half_values):
            return 0.3, float(small_values.mean())
        return 0.5, float(half_values.mean())
    all_values = values_of(1.0)
    for share in (0.5, 0.7):
        values = half_values if share == 0.5 else values_of(share)
        score = float(values.mean())
        if score >= minimum or (score > base_score and not _is_better(all_values, values)):
            return share, score
    return 1.0, tuned_score


def _is_better(values: Float64[np.ndarray, " query"], than: Float64[np.ndarray, " query"]) -> bool:
    """Returns whether a paired test proves that the mean is higher."""
    test = paired_test(than, values)
    return test.difference > 0 and test.p_value < CERTAIN


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
