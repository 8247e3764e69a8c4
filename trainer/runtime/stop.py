"""Handles Ctrl-C. The first one ends the run after the current step and saves the model, and the
second one ends the process immediately.
"""

import os
import signal
import sys
import threading
from typing import Any

import pytorch_lightning as lightning

from trainer.collectives import MAX, all_reduce_integers
from trainer.strategies.machine.own_rank import is_first_rank


class GracefulStop(lightning.Callback):
    """Stops the run after the current step once SIGINT was received.

    The first signal only sets `is_requested`, so no step, validation or save is interrupted. The
    second one exits with code 130 without cleaning up. Outside the main thread, where Python does
    not allow signal handlers, the callback does nothing.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._previous_handler: Any = None
        self._is_installed = False

    def setup(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Installs the handler of SIGINT."""
        if threading.current_thread() is threading.main_thread() and not self._is_installed:
            self._previous_handler = signal.signal(signal.SIGINT, self._handle)
            self._is_installed = True

    def on_train_batch_end(
        self,
        lightning_trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stops the loop if the flag is set on any rank.

        A signal reaches the ranks in different steps, but all must stop after the same step.
        """
        (any_rank,) = all_reduce_integers([int(self.is_requested)], MAX)
        self.is_requested = bool(any_rank)
        if self.is_requested:
            lightning_trainer.should_stop = True

    def on_validation_end(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stops the loop before the next step if Ctrl-C came during validation."""
        self.on_train_batch_end(lightning_trainer, pl_module, None, None, 0)

    def teardown(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Restores the former handler of SIGINT."""
        self._restore()

    def on_exception(
        self,
        lightning_trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Restores the former handler of SIGINT."""
        self._restore()

    def _restore(self) -> None:
        if self._is_installed:
            # None: the former handler was not installed from Python, so only the default can be
            # restored.
            handler = self._previous_handler
            signal.signal(signal.SIGINT, signal.default_int_handler if handler is None else handler)
            self._is_installed = False

    def _handle(self, number: int, frame: Any) -> None:
        # os.write is used instead of print, because a handler may run while another write to the
        # same stream is in progress.
        if self.is_requested:
            os.write(2, b"\x1b[0m\x1b[?25h\n" if sys.stderr.isatty() else b"\n")
            os._exit(130)
        self.is_requested = True
        if is_first_rank(os.environ):
            os.write(2, b"\nstopping after this step; press again to quit immediately\n")
