"""A tracker that can neither stop a run nor make it wait."""

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning.loggers import Logger

from trainer.tracking.tracked_run import Results, TrackedRun, warn_of_tracker

END_TIMEOUT_SECONDS = 20.0
"""How long the end of a run waits for a tracker, without the upload of files."""
MAX_WAITING_CALLS = 10_000
"""A tracker with more calls to do than that hangs."""


class BestEffort(Logger):
    """Forwards values to a run of a tracker, which is opened and used in a thread of its own.

    If the tracker fails or hangs, one warning is given, and it is not used any more.
    """

    def __init__(
        self,
        label: str,
        open_run: Callable[[], TrackedRun],
        latest_steps: Mapping[str, int] | None = None,
        remainder: str = "log.jsonl stays complete, and `nearfar sync RUN` sends it",
    ) -> None:
        """`latest_steps` are the latest steps that a former attempt has logged, by metric.
        `remainder` says what there is without the tracker.
        """
        super().__init__()
        self._latest_steps, self._remainder = latest_steps or {}, remainder
        self.label = label
        self.has_failed = False
        self._has_all_values = False
        self._open_run = open_run
        self._calls: queue.Queue[Callable[[TrackedRun], None] | None] = queue.Queue(
            MAX_WAITING_CALLS
        )
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
        """Forwards finite values, without those of steps that a former attempt has logged."""
        place, timestamp = step or 0, time.time()
        values = {
            name: float(value)
            for name, value in metrics.items()
            if place > self._latest_steps.get(name, -1) and math.isfinite(value)
        }
        if values:
            self._forward(lambda run: run.log(values, place, timestamp))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run was opened with its recipe."""

    def finalize(self, status: str) -> None:
        """Does nothing: a run goes on after its training, up to the final test."""

    def end(self, results: Callable[[], Results], is_done: bool) -> None:
        """Asks the tracker to write the results, which are computed on its thread, and to end."""

        def end_run(run: TrackedRun) -> None:
            self._has_all_values = True
            run.end(results(), is_done)

        self._forward(end_run)
        self._forward(None)

    def wait(self, deadline: float, upload_seconds: float = 0.0) -> None:
        """Waits for the end of the tracker, up to a deadline of `time.monotonic`. One that has all
        values by then may send files for `upload_seconds` more.
        """
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._has_all_values:
            self._thread.join(upload_seconds)
        if self._thread.is_alive() and not self.has_failed:
            self._fail(TimeoutError("no answer in time"))

    def _forward(self, call: Callable[[TrackedRun], None] | None) -> None:
        if self.has_failed or not self._thread.is_alive():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._fail(TimeoutError(f"{MAX_WAITING_CALLS:,} calls are waiting"))

    def _work(self) -> None:
        try:
            run = self._open_run()
            while not self.has_failed and (call := self._calls.get()) is not None:
                call(run)
        except Exception as error:  # noqa: BLE001 - training continues in any case
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.has_failed:
            return  # it was named as hanging before
        self.has_failed = True
        warn_of_tracker(
            f"tracker {self.label} failed and is not used any more; {self._remainder}", error
        )
