"""Reads the content of a run folder for the report. The files may come from an unknown author."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import BadData, BadFolder, BadRecipe
from trainer.evaluation.evaluation_file import read_evaluation, selection_from
from trainer.evaluation.results import Evaluation, Selection
from trainer.recipe.load import load_recipe
from trainer.recipe.schema.families import Recipe
from trainer.report.data_section import DataFacts, read_data_facts
from trainer.report.pictures import PICTURES, read_pictures
from trainer.runtime.attempts import read_attempts, validation_limitation
from trainer.runtime.log_file import read_log
from trainer.storage.locks import is_locked


@dataclass(frozen=True, slots=True)
class Run:
    """The content of one run folder that the report shows."""

    folder: Path
    recipe_yaml: str
    recipe: Recipe | None
    """None if this version cannot read it."""
    environment: Mapping[str, Any]
    status: Mapping[str, Any]
    is_running: bool
    log: Sequence[Mapping[str, Any]]
    evaluation: Evaluation | None
    selection: Selection | None
    data: DataFacts | None
    """What the data contain; None for a folder of an older version."""
    validation_limitation: str
    """Why validation scores are too high (`RetrievalSet.limitation`)."""
    pictures: Mapping[str, str] = field(default_factory=dict)
    """Thumbnails of documents that are images, by id (`trainer.report.pictures`)."""

    @property
    def name(self) -> str:
        """The name of the folder, which is the name of the recipe."""
        return self.folder.absolute().name

    def series(self, metric: str) -> tuple[list[int], list[float | None]]:
        """Returns the steps, counted from 1, and the values of a logged metric.

        A value that was not finite is None.
        """
        records = [
            record
            for record in self.log
            if metric in record and isinstance(record.get("step"), int)
        ]
        return [record["step"] + 1 for record in records], [
            _number(record[metric]) for record in records
        ]


def read_run(folder: Path) -> Run:
    """Reads a run folder. Raises BadFolder if it is not a run folder or if a file is damaged."""
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise BadFolder(
            f"{folder} is not a run folder: it has no recipe.yaml; give a folder that `nearfar fit`"
            " wrote, e.g. runs/quickstart"
        )
    status = _json_object(folder / "status.json")
    return Run(
        folder=folder,
        recipe_yaml=(folder / "recipe.yaml").read_text(encoding="utf-8", errors="replace"),
        recipe=_recipe(folder / "recipe.yaml"),
        environment=_json_object(folder / "environment.json"),
        status=status,
        is_running=is_locked(folder),
        log=read_log(folder / "log.jsonl"),
        evaluation=_evaluation(folder / "evaluation.json"),
        selection=_selection(status, folder / "status.json"),
        data=read_data_facts(_json_object(folder / "data.json"), folder / "data.json"),
        validation_limitation=validation_limitation(read_attempts(folder)),
        pictures=read_pictures(_json_object(folder / PICTURES), folder / PICTURES),
    )


def _recipe(path: Path) -> Recipe | None:
    try:
        return load_recipe(path)
    except BadRecipe:
        return None


def _evaluation(path: Path) -> Evaluation | None:
    if not path.is_file():
        return None
    try:
        return read_evaluation(path)
    except BadData as error:
        raise BadFolder(f"{error}, or remove it for a report without it") from error


def _selection(status: Mapping[str, Any], path: Path) -> Selection | None:
    try:
        return selection_from(status.get("selection"))
    except (ValueError, KeyError, TypeError) as error:
        raise BadFolder(
            f"{path} is damaged (selection: {type(error).__name__}: {error}); remove it for a"
            " report without it"
        ) from error


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except (OSError, ValueError) as error:
        raise BadFolder(
            f"{path} is damaged ({error}); remove it for a report without it"
        ) from error
    if not isinstance(content, dict):
        raise BadFolder(f"{path} is not a JSON object; remove it for a report without it")
    return content


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
