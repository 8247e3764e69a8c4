"""Ctrl-C: the first ends the run after the step in hand, with everything saved; the second ends the
process at once.
"""

import os
import signal
import sys
import threading
from typing import Any

import pytorch_lightning as lightning

from trainer.collectives import MAX, agreed
from trainer.strategies.own_rank import is_first_rank


class GracefulStop(lightning.Callback):
    """Turns the first SIGINT into a stop at the next step boundary; `interrupted` says afterwards
    that it happened.

    A signal only sets a flag, so no step, validation or save is ever torn. The second SIGINT exits
    with 130 without cleaning up. Outside the main thread, where Python allows no signal handlers,
    it does nothing.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None
        self._installed = False

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Takes SIGINT over."""
        if threading.current_thread() is threading.main_thread() and not self._installed:
            self._previous = signal.signal(signal.SIGINT, self._handle)
            self._installed = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stops the loop when the flag is set on any rank: a signal reaches them between different
        steps, and all must stop after the same.
        """
        (interrupted,) = agreed([int(self.interrupted)], MAX)
        self.interrupted = bool(interrupted)
        if self.interrupted:
            trainer.should_stop = True

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """The same when it was pressed while validating: no further step is begun."""
        self.on_train_batch_end(trainer, pl_module, None, None, 0)

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Gives SIGINT back."""
        self._restore()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Gives SIGINT back."""
        self._restore()

    def _restore(self) -> None:
        if self._installed:
            # None: the former handler was not installed from Python, so there is nothing we could
            # put back but the default.
            signal.signal(
                signal.SIGINT,
                signal.default_int_handler if self._previous is None else self._previous,
            )
            self._installed = False

    def _handle(self, number: int, frame: Any) -> None:
        # os.write and not print: a handler may run in the middle of another write to the same
        # stream.
        if self.interrupted:
            os.write(2, b"\x1b[0m\x1b[?25h\n" if sys.stderr.isatty() else b"\n")
            os._exit(130)
        self.interrupted = True
        if is_first_rank(os.environ):
            os.write(2, b"\nstopping after this step; press again to quit at once\n")
