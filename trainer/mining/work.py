"""The folder of a mining job: its manifest, its progress, and its lock.

train.jsonl                 one line per training pair: query, positive, negatives, scores (first
                            that of the positive)
without-negatives.jsonl     one line per query without negatives, with the reason
report.json                 models, data, rules, counts, worst pairs; written last, so a folder that
                            has it is complete
work/                       manifest, texts, vectors, finished shards; removed at the end
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.storage.atomic import write_text
from trainer.storage.locks import LOCK, lock_folder

NEGATIVES, WITHOUT_NEGATIVES, REPORT = "train.jsonl", "without-negatives.jsonl", "report.json"
_MANIFEST, _WORK = "manifest.json", "work"
_JOB_FILES = {NEGATIVES, WITHOUT_NEGATIVES, REPORT, LOCK, _WORK, "report.html"}
_IN_USE = (
    "another process is mining in {folder}: {holder}; wait for it, or choose another place with -o"
)

MiningManifest = dict[str, Any]
"""Everything that the result of a job depends on."""


class WorkFolder:
    """The folder of a mining job."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.work = self.path / _WORK
        self.report_path = self.path / REPORT

    @property
    def is_done(self) -> bool:
        """True when the job is finished."""
        return self.report_path.is_file()

    def begin(self, manifest: MiningManifest, replace: bool) -> None:
        """Prepares the folder for the job of `manifest`; an existing job continues.

        The caller must hold the lock. Raises BadFolder when the folder holds other files, or
        another job and `replace` is false; the message names the differences. With `replace` the
        other job is removed.
        """
        names = {entry.name for entry in self.path.iterdir()} - {LOCK}
        if names - _JOB_FILES:
            raise BadFolder(
                f"{self.path} holds files that `nearfar mine` has not written"
                f" ({', '.join(sorted(names - _JOB_FILES)[:3])}); choose another place with -o"
            )
        if names and replace:
            self.clear()
        elif names:
            self._check_same(manifest)
        if not self.is_done and not (self.work / _MANIFEST).exists():
            self.work.mkdir(exist_ok=True)
            write_text(self.work / _MANIFEST, json.dumps(manifest, indent=2))

    def _check_same(self, manifest: MiningManifest) -> None:
        path = self.report_path if self.is_done else self.work / _MANIFEST
        if not path.exists():
            # The file may be a user's own, or of a job that was killed during --replace.
            if (self.path / NEGATIVES).exists():
                raise BadFolder(
                    f"{self.path / NEGATIVES} exists, but `nearfar mine` may not have written it;"
                    " choose another place with -o, or move the file away, or give --replace to"
                    " write over it"
                )
            return  # the job was killed before it began
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            old = content["made_with"] if self.is_done else content
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadFolder(
                f"{path} is damaged ({type(error).__name__}); start again with --replace"
            ) from error
        if changes := differences(old, json.loads(json.dumps(manifest))):
            raise BadFolder(
                f"{self.path} holds another job, {'finished' if self.is_done else 'unfinished'}:"
                f" {'; '.join(changes)}. Use the settings of that job, or another place with -o, or"
                " give --replace to mine again"
            )

    def check_apart(self, source: str | None) -> None:
        """Raises BadFolder when a source lies in the folder: the job could write over it."""
        if (
            source is not None
            and Path(source).exists()
            and Path(source).resolve().is_relative_to(self.path.resolve())
        ):
            raise BadFolder(
                f"{source} lies in {self.path}, where the job would write over it; choose another"
                " place with -o"
            )

    def clear(self) -> None:
        """Removes the files of the job."""
        self.report_path.unlink(missing_ok=True)  # first: without it the folder is incomplete
        for name in _JOB_FILES - {LOCK, _WORK, REPORT}:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def shard(self, number: int, suffix: str) -> Path:
        """Returns the path of a file of one shard.

        `.jsonl` holds its lines, `.without.jsonl` its queries without negatives, and `.json`, which
        is written last, its counts.
        """
        return self.work / f"shard-{number:06}{suffix}"


@contextlib.contextmanager
def job_lock(path: Path) -> Iterator[None]:
    """Context in which only this process works in the folder; creates the folder if necessary.

    Raises BadFolder when another process works in it, or it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(path, _IN_USE)
    except OSError as error:
        raise BadFolder(
            f"cannot write to {path}: {error.strerror}; choose another place with -o"
        ) from error
    with lock:
        yield


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Returns the differences between two manifests. Files are compared by their content.

    >>> differences(
    ...     {"depth": 50, "model": {"source": "a", "sha256": "ab"}},
    ...     {"depth": 20, "model": {"source": "./a", "sha256": "ab"}},
    ... )
    ['depth was 50, is 20']
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{name} was {_short(old)}, is {_short(new)}"]
    ignored_keys = set()
    if old.get("sha256") and new.get("sha256"):
        ignored_keys = {"source", "sha256"}
        if old["sha256"] != new["sha256"]:
            return [f"{name} was {_describe(old)}, is {_describe(new)}"]
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in ignored_keys]
    return [
        difference
        for key in keys
        for difference in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    ]


def _describe(files: dict[str, Any]) -> str:
    return f"{files.get('source')} (sha256 {str(files.get('sha256'))[:8]})"


def _short(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return _describe(value)
    return "nothing" if value is None else str(value)
