"""A run of MLflow, on a server or in a local database."""

import time
from collections.abc import Mapping
from typing import Any

from trainer.recipe.schema.trackers import MlflowTracker
from trainer.tracking.tracked_run import (
    LARGEST_UPLOAD_BYTES,
    Description,
    Results,
    flat,
    size_bytes,
)

_RUN_ID = "nearfar.run_id"
_LONGEST_TEXT = 5_000
_MOST_VALUES = 100
"""The number of parameters that one request may have."""


class MlflowRun:
    """A run of MLflow. It is found again by a tag, and a point that it has is not written again."""

    def __init__(self, settings: MlflowTracker, description: Description) -> None:
        from mlflow import MlflowClient

        self._settings, self._latest_step = settings, 0
        self._client = MlflowClient(settings.tracking_uri, registry_uri="file:")
        experiment = self._client.get_experiment_by_name(settings.project)
        place = (
            self._client.create_experiment(settings.project)
            if experiment is None
            else experiment.experiment_id
        )
        runs = self._client.search_runs(
            [place], f"tags.`{_RUN_ID}` = '{description.run_id}'", max_results=1
        )
        self._is_new = not runs
        self._id = runs[0].info.run_id if runs else self._create(place, description)
        self._client.update_run(self._id, status="RUNNING")
        self._points: dict[str, set[int]] = {}

    def log(self, values: Mapping[str, float], step: int, timestamp: float) -> None:
        """Writes values of a step."""
        from mlflow.entities import Metric

        self._latest_step = max(step, self._latest_step)
        metrics = [
            Metric(name, value, int(timestamp * 1000), step)
            for name, value in ((_metric_name(name), value) for name, value in values.items())
            if step not in self._points_of(name)
        ]
        for metric in metrics:
            self._points_of(metric.key).add(step)
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, results: Results, is_done: bool) -> None:
        """Writes the results as metrics, tags and artifacts, and ends the run."""
        numbers = results.numbers
        self.log(numbers, self._latest_step, time.time())
        for name in results.summary.keys() - numbers.keys():
            self._client.set_tag(
                self._id, _metric_name(name), str(results.summary[name])[:_LONGEST_TEXT]
            )
        for name, table in results.tables.items() if self._settings.tables else ():
            content = {"columns": list(table.columns), "data": [*map(list, table.rows)]}
            self._client.log_dict(self._id, content, f"tables/{name}.json")
        for name, path in results.files.items() if self._settings.artifacts else ():
            if path.is_dir() and size_bytes(path) <= LARGEST_UPLOAD_BYTES:
                self._client.log_artifacts(self._id, str(path), name)
            elif path.exists() and size_bytes(path) <= LARGEST_UPLOAD_BYTES:
                self._client.log_artifact(self._id, str(path))
            elif path.exists():
                self._client.set_tag(self._id, f"nearfar.{name}", path.absolute().as_uri())
        self._client.set_terminated(self._id, "FINISHED" if is_done else "FAILED")

    def _create(self, experiment: str, description: Description) -> str:
        from mlflow.entities import Param

        settings = self._settings
        tags = {_RUN_ID: description.run_id, "nearfar.job_type": description.job_type}
        if settings.group:
            tags["nearfar.group"] = settings.group
        tags |= {f"nearfar.tag.{tag}": "true" for tag in settings.tags}
        run: str = self._client.create_run(
            experiment, run_name=description.name, tags=tags
        ).info.run_id
        parameters = [
            Param(_metric_name(name), str(value)[:_LONGEST_TEXT])
            for name, value in flat(description.config).items()
        ]
        for start in range(0, len(parameters), _MOST_VALUES):
            self._client.log_batch(run, params=parameters[start : start + _MOST_VALUES])
        return run

    def _points_of(self, name: str) -> set[int]:
        """Returns the steps at which the run has a value of a metric."""
        if name not in self._points:
            history: list[Any] = (
                [] if self._is_new else self._client.get_metric_history(self._id, name)
            )
            self._points[name] = {point.step for point in history}
        return self._points[name]


def _metric_name(name: str) -> str:
    """Returns a name without the signs that MLflow refuses.

    >>> _metric_name("validation/ndcg@10")
    'validation/ndcg_at_10'
    """
    return "".join(
        sign if sign.isalnum() or sign in "_-. :/" else "_" for sign in name.replace("@", "_at_")
    )
