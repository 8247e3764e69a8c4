"""One line that says how far a run is: rewritten in place on a terminal, a plain line now and then
everywhere else.
"""

import io
import sys
import time
from collections import deque
from typing import Any, TextIO

import pytorch_lightning as lightning

from trainer.collectives import rank

LOSS, LEARNING_RATE, VALIDATION_SCORE = "train/loss", "train/learning_rate", "validation/ndcg@10"
_REWRITE_SECONDS, _LINE_SECONDS = 0.2, 10.0


def clock(seconds: float) -> str:
    """Seconds as people read them.

    >>> clock(83.0), clock(3723.0), clock(0.0)
    ('1:23', '1:02:03', '0:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ProgressLine(lightning.Callback):
    """Prints `step 120/240  loss 0.312  rate 1.0e-03  154 pairs/s  1:23 left` and a line for each
    validation.

    The pairs per second are those of the last 30 steps; time spent validating does not count.
    """

    def __init__(
        self, batch_size: int, total_steps: int, stream: TextIO | io.TextIOBase | None = None
    ) -> None:
        self.batch_size, self.total_steps = batch_size, total_steps
        self.stream: TextIO | io.TextIOBase = sys.stderr if stream is None else stream
        self.is_terminal = self.stream.isatty()
        self.best: float | None = None
        self._step_seconds: deque[float] = deque(maxlen=30)
        self._mark = self._printed = self._validation_start = time.monotonic()
        self._open_line = False

    @property
    def pairs_per_second(self) -> float:
        """Rate of the last steps; 0 before the first."""
        return self.batch_size * len(self._step_seconds) / max(sum(self._step_seconds), 1e-9)

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Starts the clock."""
        self._mark = self._printed = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Takes the step's time, logs the rate, prints when it is due."""
        now = time.monotonic()
        self._step_seconds.append(now - self._mark)
        self._mark = now
        pl_module.log("train/pairs_per_second", self.pairs_per_second)
        step = trainer.global_step
        due = now - self._printed >= (_REWRITE_SECONDS if self.is_terminal else _LINE_SECONDS)
        if due or step == 1 or step >= self.total_steps:
            self._printed = now
            self._print(self._describe(trainer), ends=not self.is_terminal)

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stops the clock of the training steps."""
        self._validation_start = time.monotonic()

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Prints the score and starts the clock again."""
        self._mark += time.monotonic() - self._validation_start
        score = trainer.callback_metrics.get(VALIDATION_SCORE)
        if score is None or trainer.sanity_checking:
            return
        value = float(score)
        is_best = self.best is None or value > self.best
        self.best = value if is_best else self.best
        note = "best so far" if is_best else f"best {self.best:.3f}"
        self._print(
            f"validation at step {trainer.global_step}: nDCG@10 {value:.3f} ({note})", ends=True
        )

    def leave_out(self, seconds: float, what: str) -> None:
        """Prints what took place between two steps; its time is none of theirs."""
        self._mark += seconds
        self._print(what, ends=True)

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Leaves the last line standing."""
        self._end_line()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Leaves the last line standing, so that the error starts on its own."""
        self._end_line()

    def _describe(self, trainer: lightning.Trainer) -> str:
        metrics, step = trainer.callback_metrics, trainer.global_step
        parts = [f"step {step}/{self.total_steps}"]
        if LOSS in metrics:
            parts.append(f"loss {float(metrics[LOSS]):.3f}")
        if LEARNING_RATE in metrics:
            parts.append(f"rate {float(metrics[LEARNING_RATE]):.1e}")
        parts.append(
            f"{self.pairs_per_second:.0f} pairs/s"
            if self.pairs_per_second >= 10
            else f"{self.pairs_per_second:.1f} pairs/s"
        )
        seconds_left = (
            (self.total_steps - step) * self.batch_size / max(self.pairs_per_second, 1e-9)
        )
        parts.append(f"{clock(max(seconds_left, 0.0))} left")
        return "  ".join(parts)

    def _print(self, text: str, ends: bool) -> None:
        if rank() > 0:
            return
        start = "\r\x1b[2K" if self._open_line else ""
        self.stream.write(start + text + ("\n" if ends else ""))
        self.stream.flush()
        self._open_line = not ends

    def _end_line(self) -> None:
        if self._open_line:
            self.stream.write("\n")
            self.stream.flush()
            self._open_line = False
