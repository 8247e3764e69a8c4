"""Opens a run of a tracker of any kind."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, assert_never

from trainer.errors import BadRecipe
from trainer.recipe.schema.trackers import (
    MlflowTracker,
    TensorboardTracker,
    Tracker,
    TrackioTracker,
    WandbTracker,
)
from trainer.runtime.attempts import read_json_object
from trainer.storage.redaction import redact_tree
from trainer.tracking.course import read_course
from trainer.tracking.kinds.mlflow_run import MlflowRun
from trainer.tracking.kinds.tensorboard_run import TensorboardRun
from trainer.tracking.kinds.trackio_run import TrackioRun
from trainer.tracking.kinds.wandb_run import WandbRun, prepare_wandb
from trainer.tracking.tracked_run import Description, TrackedRun

_PRIVATE = ("command", "host", "process")
"""What trackers are not told of `environment.json`."""


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Raises BadRecipe if the package of a tracker is not installed. Call it before the run."""
    for tracker in trackers:
        if find_spec(tracker.kind) is None:
            raise BadRecipe(
                f"trackers: {tracker.kind!r} needs the package {tracker.kind}, which is not"
                f" installed; run `pip install {tracker.kind}`, or remove the tracker (log.jsonl"
                " and report.html are always written)"
            )


def import_tracker(tracker: Tracker) -> None:
    """Imports the package of a tracker.

    The thread of the tracker does not: it would hold up the first steps, and a process that is
    forked in the middle of an import would have half of the modules.
    """
    match tracker:
        case WandbTracker():
            prepare_wandb()
        case TensorboardTracker():
            pass
        case MlflowTracker():
            import mlflow  # noqa: F401
        case TrackioTracker():
            import trackio  # noqa: F401
        case _:
            assert_never(tracker)


def description_of_run(run_folder: Path, config: Mapping[str, Any]) -> Description:
    """Returns the description of the run in a folder, without secrets.

    Its configuration is the recipe, with the environment and the fingerprint of the data.
    """
    environment = read_json_object(run_folder / "environment.json")
    data = environment.pop("data", {})
    public = {name: value for name, value in environment.items() if name not in _PRIVATE}
    course = read_course(run_folder)
    return Description(
        run_id=course.run_id,
        name=run_folder.absolute().name,
        folder=run_folder,
        config=redact_tree({**config, "environment": public, "data_fingerprint": data}),
        first_step=course.first_step,
        source=f"nearfar sync {run_folder}",
    )


def open_run(tracker: Tracker, description: Description, replaces: bool = False) -> TrackedRun:
    """Returns a run of a tracker; with `replaces`, without what it had before."""
    match tracker:
        case WandbTracker():
            return WandbRun(tracker, description)
        case TensorboardTracker():
            return TensorboardRun(tracker, description)
        case MlflowTracker():
            return MlflowRun(tracker, description)
        case TrackioTracker():
            return TrackioRun(tracker, description, replaces)
        case _:
            assert_never(tracker)
