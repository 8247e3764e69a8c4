"""Ctrl-C: the first one ends the run after the current step, with everything saved; the second one
ends the process immediately.
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
    """Turns the first SIGINT into a stop at the next step boundary; `is_requested` records it.

    A signal only sets this flag, so no step, validation or save is cut short. The second SIGINT
    exits with 130 without cleaning up. Outside the main thread, where Python allows no signal
    handlers, the callback does nothing.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._previous_handler: Any = None
        self._is_installed = False

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Installs the handler of SIGINT."""
        if threading.current_thread() is threading.main_thread() and not self._is_installed:
            self._previous_handler = signal.signal(signal.SIGINT, self._handle)
            self._is_installed = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stops the loop when the flag is set on any rank: a signal reaches them between different
        steps, and all must stop after the same step.
        """
        (any_rank,) = all_reduce_integers([int(self.is_requested)], MAX)
        self.is_requested = bool(any_rank)
        if self.is_requested:
            trainer.should_stop = True

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stops the loop when Ctrl-C came during validation, before another step begins."""
        self.on_train_batch_end(trainer, pl_module, None, None, 0)

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Restores the former handler of SIGINT."""
        self._restore()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Restores the former handler of SIGINT."""
        self._restore()

    def _restore(self) -> None:
        if self._is_installed:
            # None: the former handler was not installed from Python, so there is nothing we could
            # put back but the default.
            handler = self._previous_handler
            signal.signal(signal.SIGINT, signal.default_int_handler if handler is None else handler)
            self._is_installed = False

    def _handle(self, number: int, frame: Any) -> None:
        # os.write and not print: a handler may run in the middle of another write to the same
        # stream.
        if self.is_requested:
            os.write(2, b"\x1b[0m\x1b[?25h\n" if sys.stderr.isatty() else b"\n")
            os._exit(130)
        self.is_requested = True
        if is_first_rank(os.environ):
            os.write(2, b"\nstopping after this step; press again to quit immediately\n")
