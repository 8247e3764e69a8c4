"""The event files of TensorBoard."""

from collections.abc import Mapping
from typing import Any

import yaml

from trainer.recipe.schema.trackers import TensorboardTracker
from trainer.runtime.console import say
from trainer.tracking.tracked_run import Description, Results, ResultTable, flat


class TensorboardRun:
    """A folder `tensorboard`. A run that continues forgets the steps after its checkpoint."""

    def __init__(self, settings: TensorboardTracker, description: Description) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._settings, self._config = settings, description.config
        self._latest_step = 0
        folder = description.folder / "tensorboard"
        self._writer = SummaryWriter(folder, purge_step=description.first_step or None)
        say(f"tracker tensorboard: `tensorboard --logdir {folder}` shows it")
        recipe = yaml.safe_dump(dict(description.config), sort_keys=False, allow_unicode=True)
        self._text("recipe", f"```yaml\n{recipe}```")

    def log(self, values: Mapping[str, float], step: int, timestamp: float) -> None:
        """Writes values of a step."""
        self._latest_step = max(step, self._latest_step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, timestamp)

    def end(self, results: Results, is_done: bool) -> None:
        """Writes the results: numbers, which the view of hyperparameters compares, and tables."""
        from torch.utils.tensorboard.summary import hparams

        numbers = results.numbers
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, self._latest_step)
        if numbers:
            writer = self._writer._get_file_writer()
            for summary in hparams(_parameters(self._config), numbers):
                writer.add_summary(summary)
        if self._settings.tables:
            for name, table in results.tables.items():
                self._text(f"tables/{name}", _markdown(table))
        self._writer.close()

    def _text(self, name: str, text: str) -> None:
        self._writer.add_text(name, text, self._latest_step)


def _parameters(config: Mapping[str, Any]) -> dict[str, bool | float | str]:
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat(config).items()
    }


def _markdown(table: ResultTable) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value).replace("|", "\\|").split())
