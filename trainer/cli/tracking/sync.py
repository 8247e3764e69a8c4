"""`nearfar sync`: writes a run to a tracker, from its log."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.cli import terminal
from trainer.cli.options import tracking

Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="run folder, e.g. runs/quickstart", show_default=False),
]


def sync(
    run: Run,
    to: tracking.Kind = None,
    project: tracking.Project = None,
    entity: tracking.Entity = None,
) -> None:
    """Write a run to a tracker, from log.jsonl. It can be repeated, and never doubles a value.

    Without a server or key, W&B gets files, which `wandb sync` sends later.
    """
    with terminal.loading_libraries():
        from trainer.tracking.sync import sync_run

    tracker = _tracker_of(run, to, {"project": project, "entity": entity})
    print(f"{tracker.kind}: {sync_run(run, tracker)}")


def _tracker_of(run: Path, kind: str | None, settings: dict[str, str | None]) -> Any:
    """Returns the tracker of this kind in the recipe of the run, with the settings of the command
    line. Without a kind, it is the first one in the recipe, or W&B.
    """
    from trainer.recipe.load import load_recipe
    from trainer.tracking.settings import tracker_with

    path = run / "recipe.yaml"
    trackers = load_recipe(path).trackers if path.is_file() else ()
    kind = kind or next((tracker.kind for tracker in trackers), "wandb")
    recipe_tracker = next((tracker for tracker in trackers if tracker.kind == kind), None)
    return tracker_with(kind, recipe_tracker, settings)
