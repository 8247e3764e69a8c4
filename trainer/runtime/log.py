"""`log.jsonl`: one JSON object per line, written to disk as soon as it is logged. It is complete
even if a remote tracker fails.
"""

import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trainer.runtime.log_file import latest_seconds


class JsonlLogger(Logger):
    """Appends every logged record to a file: `{"step": 3, "time_seconds": 1.25, "train/loss":
    0.31}`.

    A number that is not finite is written as null and its name is added to `non_finite`, so every
    line is strict JSON. If the disk cannot be written to, one warning is given and training
    continues.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._file = -1
        self._start = time.monotonic() - latest_seconds(self.path)
        self._cut_short = False
        self._has_warned = False

    @property
    def name(self) -> str:
        """The name of the log file."""
        return self.path.name

    @property
    def version(self) -> str:
        """The version of the record format."""
        return "1"

    @property
    def root_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Appends one line."""
        record: dict[str, Any] = {
            "step": step,
            "time_seconds": round(time.monotonic() - self._start, 3),
        }
        non_finite = []
        for name, value in metrics.items():
            number = value if isinstance(value, int) else float(value)
            record[name] = number if math.isfinite(number) else None
            if not math.isfinite(number):
                non_finite.append(name)
        if non_finite:
            record["non_finite"] = non_finite
        self._append(json.dumps(record, allow_nan=False))

    @rank_zero_only
    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Does nothing, because the resolved recipe is in the same folder as the log."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the file. A later record opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, line: str) -> None:
        text = f"\n{line}\n" if self._cut_short else f"{line}\n"
        try:
            if self._file < 0:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            # The text is ASCII, so it has as many bytes as characters.
            self._cut_short = os.write(self._file, text.encode()) < len(text)
        except OSError as error:
            self._cut_short = True
            if not self._has_warned:
                warnings.warn(
                    f"cannot write to {self.path}: {error.strerror}; training continues, but the"
                    " log will have gaps",
                    stacklevel=2,
                )
                self._has_warned = True
