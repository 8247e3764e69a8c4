"""A run of Trackio, in its local database."""

from collections.abc import Mapping
from typing import Any

from trainer.recipe.schema.trackers import TrackioTracker
from trainer.tracking.tracked_run import Description, Results


class TrackioRun:
    """A run of Trackio. Its name has the id of the run, as Trackio finds runs by name."""

    def __init__(
        self, settings: TrackioTracker, description: Description, replaces: bool = False
    ) -> None:
        """With `replaces`, the points that the database has of this run are removed first."""
        import trackio

        self._settings, self._latest_step = settings, 0
        name = f"{description.name}-{description.run_id}"
        if replaces:
            for run in _runs(settings.project):
                if run.name == name:
                    run.delete()
        self._run = trackio.init(
            project=settings.project,
            name=name,
            group=settings.group,
            config={**description.config, "job_type": description.job_type},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, values: Mapping[str, float], step: int, timestamp: float) -> None:
        """Writes values of a step. Trackio takes its own clock for them."""
        self._latest_step = max(step, self._latest_step)
        self._run.log(dict(values), step=step)

    def end(self, results: Results, is_done: bool) -> None:
        """Writes the numbers and tables of the results at the latest step, and ends the run."""
        import trackio

        values: dict[str, Any] = dict(results.numbers)
        for name, table in results.tables.items() if self._settings.tables else ():
            if table.rows:
                values[f"tables/{name}"] = trackio.Table(
                    columns=list(table.columns), data=[*map(list, table.rows)]
                )
        if values:
            self._run.log(values, step=self._latest_step)
        self._run.finish()


def _runs(project: str) -> list[Any]:
    import trackio

    try:
        return list(trackio.Api().runs(project))
    except ValueError:  # there is no such project
        return []
