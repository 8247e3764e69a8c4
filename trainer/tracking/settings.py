"""Settings of trackers that the command line gives."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from trainer.errors import BadRecipe
from trainer.recipe.nearest import nearest, question
from trainer.recipe.schema.trackers import Tracker
from trainer.recipe.yaml_text import parse
from trainer.tracking.opening import check_trackers

_TRACKERS: TypeAdapter[Tracker] = TypeAdapter(Tracker)
_KEYS = {
    section.model_fields["kind"].default: list(section.model_fields)
    for section in get_args(get_args(Tracker)[0])
}
"""The keys of each kind of tracker."""


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
        raise BadRecipe(
            f"tracker {settings}: {_problem(error.errors()[0])}; give wandb,"
            " tensorboard, mlflow or trackio, or a map such as {kind: wandb, project: search}"
        ) from error


def _problem(details: ErrorDetails) -> str:
    """Returns what is wrong with the settings of a tracker, in plain words."""
    place = ".".join(map(str, details["loc"]))
    match details["type"]:
        case "union_tag_invalid":
            return f"{details['ctx']['tag']} is no kind of tracker"
        case "extra_forbidden":
            kind, *_, key = details["loc"]
            keys = _KEYS[str(kind)]
            return f"{place} is not a key{question(nearest(str(key), keys))}"
        case _:
            return f"{place + ': ' if place else ''}{details['msg']}"
