"""A logger that can neither stop a run nor make it wait."""

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning.loggers import Logger

from trainer.runtime.console import say
from trainer.storage.redaction import redact, redact_tree

END_TIMEOUT_SECONDS = 20.0
"""How long the end of a run waits for a tracker."""
MAX_WAITING_CALLS = 10_000
"""A tracker with more calls to do than that hangs."""


class BestEffort(Logger):
    """Forwards every call to another logger, which is made and used in a thread of its own.

    If the logger fails or hangs, one warning is given, and it is not used any more.
    """

    def __init__(
        self,
        label: str,
        make: Callable[[], Logger],
        finish: Callable[[], None] | None = None,
        latest_steps: Mapping[str, int] | None = None,
    ) -> None:
        """`latest_steps` are the latest steps that a former attempt has logged, by metric."""
        super().__init__()
        self._latest_steps = latest_steps or {}
        self.label = label
        self.has_failed = False
        self._make, self._finish = make, finish
        self._calls: queue.Queue[Callable[[Logger], None] | None] = queue.Queue(MAX_WAITING_CALLS)
        self._thread = threading.Thread(target=self._work, name=label, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The kind of the tracker."""
        return self.label

    @property
    def version(self) -> str:
        """The empty string: a run folder has one run."""
        return ""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Forwards the metrics, without those of steps that a former attempt has logged."""
        values = {
            name: value
            for name, value in metrics.items()
            if step is None or step > self._latest_steps.get(name, -1)
        }
        if values:
            self._forward(lambda logger: logger.log_metrics(values, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Forwards the hyperparameters, without secrets."""
        values = redact_tree(params)
        self._forward(lambda logger: logger.log_hyperparams(values, *args, **kwargs))

    def save(self) -> None:
        """Forwards the call."""
        self._forward(lambda logger: logger.save())

    def finalize(self, status: str) -> None:
        """Forwards the status, calls the tracker's own end, and waits for it."""
        self._forward(lambda logger: logger.finalize(status))
        self._forward(None)
        self._thread.join(END_TIMEOUT_SECONDS)
        if self._thread.is_alive():
            self._fail(TimeoutError(f"no answer for {END_TIMEOUT_SECONDS:g} s"))

    def _forward(self, call: Callable[[Logger], None] | None) -> None:
        if self.has_failed or not self._thread.is_alive():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._fail(TimeoutError(f"{MAX_WAITING_CALLS:,} calls are waiting"))

    def _work(self) -> None:
        try:
            logger = self._make()
            while not self.has_failed and (call := self._calls.get()) is not None:
                call(logger)
            if self._finish is not None:
                self._finish()
        except Exception as error:  # noqa: BLE001 - training continues in any case
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.has_failed = True
        warn_of_tracker(
            f"tracker {self.label} failed and is not used any more; log.jsonl stays complete", error
        )


def warn_of_tracker(message: str, error: Exception) -> None:
    """Prints a warning with its reason, without secrets."""
    reason = " ".join(redact(f"{type(error).__name__}: {error}").split())[:300]
    say(f"warning: {message} ({reason})")
