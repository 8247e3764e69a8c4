"""The trackers of a run. If a tracker fails or hangs, the run continues.

A tracker gets a copy of `log.jsonl`, which is complete in any case, and at the end the results.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.collectives import on_first_rank, rank
from trainer.recipe.schema.trackers import TensorboardTracker, Tracker
from trainer.tracking import best_effort
from trainer.tracking.best_effort import BestEffort
from trainer.tracking.course import read_course
from trainer.tracking.opening import check_trackers, description_of_run, import_tracker, open_run
from trainer.tracking.results import results_of_run
from trainer.tracking.tracked_run import Description, Results

_UPLOAD_SECONDS = 120.0
"""How much longer the end of a finished run waits for files to be sent."""


@contextmanager
def run_trackers(
    trackers: Sequence[Tracker], run_folder: Path, config: Mapping[str, Any]
) -> Iterator[list[BestEffort]]:
    """Within the block, the trackers of a run are open. At its end they get the results.

    `config` is the resolved recipe. All ranks but the first have no tracker.
    """
    loggers = start_trackers(trackers, run_folder, config)

    def end(is_done: bool) -> None:
        end_trackers(loggers, lambda: results_of_run(run_folder), is_done)

    try:
        yield loggers
    except BaseException:
        end(is_done=False)
        raise
    if trackers:
        on_first_rank(lambda: end(is_done=True))  # the others wait, as for all that it writes


def start_trackers(
    trackers: Sequence[Tracker], run_folder: Path, config: Mapping[str, Any]
) -> list[BestEffort]:
    """Returns one logger per tracker, which writes into `run_folder`. Raises BadRecipe."""
    check_trackers(trackers)
    if rank() > 0 or not trackers:
        return []
    latest_steps = read_course(run_folder).latest_steps
    description = description_of_run(run_folder, config)
    return [_best_effort(tracker, description, latest_steps) for tracker in trackers]


def _best_effort(
    tracker: Tracker, description: Description, latest_steps: Mapping[str, int] | None = None
) -> BestEffort:
    import_tracker(tracker)
    if isinstance(tracker, TensorboardTracker):
        latest_steps = None  # it forgets the steps after the checkpoint
    return BestEffort(tracker.kind, lambda: open_run(tracker, description), latest_steps)


def end_trackers(
    loggers: Sequence[BestEffort], results: Callable[[], Results], is_done: bool
) -> None:
    """Gives the results to all trackers, and waits for them."""
    for logger in loggers:
        logger.end(results, is_done)
    deadline = time.monotonic() + best_effort.END_TIMEOUT_SECONDS
    for logger in loggers:
        logger.wait(deadline, _UPLOAD_SECONDS if is_done else 0.0)
