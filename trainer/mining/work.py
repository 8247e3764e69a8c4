"""The folder of a mining job: what it was begun with, what of it is done, and that nobody else is
at it.

train.jsonl                 one line a training pair: query, positive, negatives, scores (the
positive's first) without-negatives.jsonl     one line a query that nothing was left for, and why
report.json                 what was mined from and with, counts, worst pairs; written last: a
folder that has it is whole work/                       manifest, texts, vectors, finished shards;
gone once the job is done
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

NEGATIVES, WITHOUT, REPORT = "train.jsonl", "without-negatives.jsonl", "report.json"
_MANIFEST, _WORK = "manifest.json", "work"
_OURS = {NEGATIVES, WITHOUT, REPORT, LOCK, _WORK, "report.html"}
_IN_USE = (
    "another process is mining in {folder}: {holder}; wait for it, or choose another place with -o"
)

MiningManifest = dict[str, Any]
"""What a job is begun with: everything that its outcome depends on."""


class WorkFolder:
    """The folder of one job."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.work = self.path / _WORK
        self.report_path = self.path / REPORT

    @property
    def is_done(self) -> bool:
        """Whether the job came to its end."""
        return self.report_path.is_file()

    def begin(self, manifest: MiningManifest, replace: bool) -> None:
        """Makes the folder for the job of `manifest`, or finds it there, finished or not. To be
        called by the holder of the lock.

        Raises BadFolder when the folder holds another job (naming what differs) or other files;
        with `replace` another job is removed.
        """
        there = {entry.name for entry in self.path.iterdir()} - {LOCK}
        if there - _OURS:
            raise BadFolder(
                f"{self.path} holds files that are not of `nearfar mine`"
                f" ({', '.join(sorted(there - _OURS)[:3])}); choose another place with -o"
            )
        if there and replace:
            self.clear()
        elif there:
            self._check_same(manifest)
        if not self.is_done and not (self.work / _MANIFEST).exists():
            self.work.mkdir(exist_ok=True)
            write_text(self.work / _MANIFEST, json.dumps(manifest, indent=2))

    def _check_same(self, manifest: MiningManifest) -> None:
        path = self.report_path if self.is_done else self.work / _MANIFEST
        if not path.exists():
            if (
                self.path / NEGATIVES
            ).exists():  # of a person, or of a job whose --replace was killed
                raise BadFolder(
                    f"{self.path / NEGATIVES} is there, and nothing says that `nearfar mine` wrote"
                    " it; choose another place with -o, or move it away, or give --replace to"
                    " write over it"
                )
            return  # killed before it had begun
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            before = content["made_with"] if self.is_done else content
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadFolder(
                f"{path} is damaged ({type(error).__name__}); start anew with --replace"
            ) from error
        if changed := differences(before, json.loads(json.dumps(manifest))):
            raise BadFolder(
                f"{self.path} holds another job, {'finished' if self.is_done else 'unfinished'}:"
                f" {'; '.join(changed)}. Give what it was begun with, or another place with -o, or"
                " --replace to mine anew"
            )

    def check_apart(self, source: str | None) -> None:
        """Raises BadFolder where what is read lies among what is written: it would be gone before
        it is read.
        """
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
        """Removes what the job has written."""
        self.report_path.unlink(missing_ok=True)  # first: without it the folder is not whole
        for name in _OURS - {LOCK, _WORK, REPORT}:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def shard(self, number: int, suffix: str) -> Path:
        """A file of one finished shard: `.jsonl` its lines, `.without.jsonl` its queries without
        negatives, `.json`, written last, its counts.
        """
        return self.work / f"shard-{number:06}{suffix}"


@contextlib.contextmanager
def job_lock(path: Path) -> Iterator[None]:
    """Within it this process alone works in the folder, which is made where it is not there. Raises
    BadFolder when another does, or it cannot be made.
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


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two manifests. Of files it is what they hold that counts, wherever they
    lie.

    >>> differences(
    ...     {"depth": 50, "model": {"source": "a", "sha256": "ab"}},
    ...     {"depth": 20, "model": {"source": "./a", "sha256": "ab"}},
    ... )
    ['depth was 50, is 20']
    """
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{name} was {_short(before)}, is {_short(now)}"]
    hidden = set()
    if before.get("sha256") and now.get("sha256"):
        hidden = {"source", "sha256"}
        if before["sha256"] != now["sha256"]:
            return [f"{name} was {_described(before)}, is {_described(now)}"]
    keys = [key for key in dict.fromkeys([*before, *now]) if key not in hidden]
    return [
        found
        for key in keys
        for found in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    ]


def _described(files: dict[str, Any]) -> str:
    return f"{files.get('source')} (sha256 {str(files.get('sha256'))[:8]})"


def _short(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return _described(value)
    return "nothing" if value is None else str(value)
