"""Settings of trackers that the command line gives."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer.errors import BadRecipe
from trainer.recipe.schema.trackers import Tracker
from trainer.recipe.yaml_text import parse
from trainer.tracking.opening import check_trackers

_TRACKERS: TypeAdapter[Tracker] = TypeAdapter(Tracker)


def tracker_with(kind: str, base: Tracker | None, settings: Mapping[str, Any]) -> Tracker:
    """Returns a tracker with further settings, where they are not None. Raises BadRecipe."""
    base_settings = base.model_dump() if base is not None else {"kind": kind}
    changes = {name: value for name, value in settings.items() if value is not None}
    return _validate({**base_settings, **changes})


def read_trackers(texts: Sequence[str]) -> tuple[Tracker, ...]:
    """Returns trackers from texts such as `wandb` or `{kind: wandb, group: search}`. Raises
    BadRecipe, also for one whose package is not installed.

    >>> [tracker.kind for tracker in read_trackers(["wandb", "{kind: wandb, project: a}"])]
    ['wandb', 'wandb']
    """
    trackers = tuple(_read(text) for text in texts)
    check_trackers(trackers)
    return trackers


def _read(text: str) -> Tracker:
    value = parse(text, "--tracker").value
    return _validate({"kind": value} if isinstance(value, str) else value)


def _validate(settings: Any) -> Tracker:
    try:
        return _TRACKERS.validate_json(json.dumps(settings))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise BadRecipe(
            f"tracker {settings}: {place + ': ' if place else ''}{problem['msg']}; give wandb,"
            " tensorboard, mlflow or trackio, or a map such as {kind: wandb, project: search}"
        ) from error
