"""Saves checkpoints between two steps, and ends a run there when it was asked to stop."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning

from trainer.checkpoints.best import KeepBest
from trainer.checkpoints.folder import LATEST, Checkpoint
from trainer.checkpoints.writer import CheckpointWriter, read_state, stored_names
from trainer.collectives import MAX, all_reduce_integers, rank, ranks
from trainer.errors import Interrupted, NoSpace, Preempted
from trainer.runtime.console import say
from trainer.runtime.memory import is_out_of_memory
from trainer.stopping import Stop, follow_request, request_stop, requested_stop, shield
from trainer.strategies.resuming import arrange_gradients, loss_scale, set_loss_scale, set_schedules
from trainer.strategies.training_state import empty_moments, restore_moments, training_state

MOST_FAILURES = 3
"""Saves in a row that may fail before the run ends."""
_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class SaveTimes:
    """When checkpoints are saved: after so many steps, or so many seconds after the last one."""

    every_steps: int | None = None
    every_seconds: float | None = None


class SaveCheckpoints(lightning.Callback):
    """Saves the state between two steps, when everything about the earlier one is done and logged.

    `extra_state` gives what else must be stored, as JSON. After a signal, all ranks stop before the
    same step, save, and raise Preempted. After Ctrl-C they validate first.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        best: KeepBest,
        times: SaveTimes,
        extra_state: Callable[[], dict[str, Any]],
        checkpoint: Checkpoint | None = None,
        is_ddp: bool = False,
    ) -> None:
        self.writer, self.best, self.times = writer, best, times
        self.is_interrupted = False
        """Whether Ctrl-C ended the training."""
        self._extra_state, self._checkpoint, self._is_ddp = extra_state, checkpoint, is_ddp
        self._stop, self._is_due = Stop.NO_REQUEST, False
        self._saved_step = checkpoint.step if checkpoint is not None else 0
        self._saved_at = time.monotonic()
        self._failures = 0
        self._is_updating = False
        """Whether weights may have changed in a step that is not counted yet."""

    def on_train_start(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Continues with the optimizer of the checkpoint; the weights were read before."""
        self._saved_at = time.monotonic()
        if self._checkpoint is None:
            return
        optimizer = lightning_trainer.optimizers[0]
        path = self._checkpoint.path
        moments = empty_moments(pl_module, optimizer, stored_names(path))
        read_state(path, moments)
        restore_moments(pl_module, optimizer, moments)
        set_schedules(lightning_trainer, self._checkpoint.step)
        set_loss_scale(lightning_trainer, self._checkpoint.state.get("loss_scale", {}))

    def on_train_batch_end(self, lightning_trainer: lightning.Trainer, *_: Any) -> None:
        """Agrees with the other ranks on what happens before the next step."""
        self._is_updating = False
        stop, is_due, failures = all_reduce_integers(
            [
                int(requested_stop()),
                int(rank() == 0 and self._is_save_due(lightning_trainer.global_step)),
                self.writer.failures,
            ],
            MAX,
        )
        self._stop, self._is_due = Stop(stop), bool(is_due)
        self._report_failures(failures)
        if self._stop is Stop.CTRL_C:
            follow_request(self._stop)  # the validation of this step is not interrupted
            self.is_interrupted = True
            lightning_trainer.should_stop = True

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Notes that the update begins."""
        self._is_updating = True

    def on_train_batch_start(
        self,
        lightning_trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stops, or saves, before the next step."""
        is_first = self._checkpoint is not None and batch_idx == 0
        if is_first and self._is_ddp and ranks() > 2:
            arrange_gradients(lightning_trainer, batch)
        if self._stop:
            request_stop(self._stop)
            raise self._stop.error()
        if self._is_due:
            self._save(lightning_trainer, pl_module)

    def on_train_end(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Saves the last state. If that fails, the model is still in memory, and is saved next."""
        try:
            self._save_at_last(lightning_trainer, pl_module)
        except NoSpace as error:
            say(f"warning: {error}")

    def on_exception(
        self,
        lightning_trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Saves the state if the run was asked to stop, or if memory was missing before an update.

        After another error, and with several ranks, the last checkpoint counts.
        """
        if isinstance(exception, Preempted | Interrupted):
            self._save_at_last(lightning_trainer, pl_module, not lightning_trainer.validating)
            say(f"checkpoint saved after step {lightning_trainer.global_step:,}")
        elif is_out_of_memory(exception) and ranks() == 1 and not self._is_updating:
            traceback.clear_frames(exception.__traceback__)  # they hold the activations
            try:
                if lightning_trainer.global_step > self._saved_step:
                    self._save_at_last(
                        lightning_trainer, pl_module, not lightning_trainer.validating
                    )
            except Exception as error:  # noqa: BLE001 - the first error ends the run
                say(f"warning: the state could not be saved ({error}); the last checkpoint counts")

    def _is_save_due(self, step: int) -> bool:
        if self.writer.is_busy:
            return False
        times, seconds = self.times, time.monotonic() - self._saved_at
        return (times.every_steps is not None and step - self._saved_step >= times.every_steps) or (
            times.every_seconds is not None and seconds >= times.every_seconds
        )

    def _save(
        self,
        lightning_trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        is_validated: bool = True,
    ) -> None:
        step = lightning_trainer.global_step
        self.best.save_unsaved()
        state = {
            "step": step,
            "is_validated": is_validated,
            "best": self.best.state_dict(),
            "loss_scale": loss_scale(lightning_trainer),
            **self._extra_state(),
        }
        start_time = time.monotonic()
        tensors = training_state(pl_module, lightning_trainer.optimizers[0])
        self.writer.start(step, tensors, state)
        stall = time.monotonic() - start_time
        for logger in lightning_trainer.loggers:
            logger.log_metrics({"checkpoint/stall_seconds": stall}, step=max(0, step - 1))
        self._saved_step, self._saved_at, self._is_due = step, time.monotonic(), False

    def _save_at_last(
        self,
        lightning_trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        is_validated: bool = True,
    ) -> None:
        """Saves and waits. Tries again while the disk is full."""
        with shield():
            for attempt in range(MOST_FAILURES):
                self._save(lightning_trainer, pl_module, is_validated)
                self.writer.wait()
                assert self.writer.last is not None
                if self.writer.last.error is None:
                    return
                if attempt + 1 < MOST_FAILURES:
                    time.sleep(_RETRY_SECONDS)
            self._raise_no_space()

    def _report_failures(self, failures: int) -> None:
        if failures > self._failures:
            last = self.writer.last
            reason = last.error if last is not None and last.error else "another rank knows why"
            say(f"warning: a checkpoint could not be saved ({reason}); training goes on")
        self._failures = failures
        if failures >= MOST_FAILURES:
            self._raise_no_space()

    def _raise_no_space(self) -> None:
        last, folder = self.writer.last, self.writer.folder.path
        if last is not None and last.is_folder_gone:
            raise Stop.FOLDER_GONE.error()
        reason = last.error if last is not None else "see the message of the first rank"
        raise NoSpace(
            f"checkpoints cannot be saved in {folder} ({reason}), {MOST_FAILURES} times in a row;"
            f" {_latest_text(folder)}make room on the disk and continue with --resume"
        )


def _latest_text(folder: Path) -> str:
    latest = folder / LATEST
    return f"the last one is {latest.resolve().name}; " if latest.exists() else ""
