"""What every tracker is told about a run: its description, its values by step, and its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trainer.runtime.console import say
from trainer.storage.redaction import redact

LARGEST_UPLOAD_BYTES = 100 * 2**20
"""Above that, a tracker stores only the path of a file or folder."""

SummaryValue = float | int | str


@dataclass(frozen=True)
class Description:
    """What a tracker must know to open a run."""

    run_id: str
    name: str
    folder: Path
    """Where the tracker's own files are written."""
    config: Mapping[str, Any]
    job_type: str = "train"
    first_step: int = 0
    """The step at which this attempt continues the run."""
    source: str = ""
    """The command that sends a run later, which goes on here; "" for one that is not here."""


@dataclass(frozen=True)
class ResultTable:
    """A table of the results; texts and numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[SummaryValue | None]]


@dataclass(frozen=True)
class Results:
    """What is known at the end of a run."""

    summary: Mapping[str, SummaryValue] = field(default_factory=dict)
    tables: Mapping[str, ResultTable] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    """Files and folders by name."""

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers of the summary."""
        return {
            name: float(value)
            for name, value in self.summary.items()
            if isinstance(value, int | float)
        }


@runtime_checkable
class TrackedRun(Protocol):
    """One run of a tracker. Calls may take long: `BestEffort` makes them on a thread."""

    def log(self, values: Mapping[str, float], step: int, timestamp: float) -> None:
        """Writes values of a step, at `timestamp` seconds since 1970. Steps never fall."""

    def end(self, results: Results, is_done: bool) -> None:
        """Writes the results and ends the run; `is_done` says whether it reached its end."""


def size_bytes(path: Path) -> int:
    """Returns the size of a file, or of all files in a folder."""
    paths = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in paths if file.is_file())


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, with dots in the names.

    >>> flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def warn_of_tracker(message: str, error: Exception) -> None:
    """Prints a warning with its reason, without secrets."""
    reason = " ".join(redact(f"{type(error).__name__}: {error}").split())[:300]
    say(f"warning: {message} ({reason})")
