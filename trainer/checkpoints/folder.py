"""The folder `checkpoints/` of a run.

step-000000200/       a checkpoint: complete, or absent
    manifest.json     everything that is not a tensor; the size and SHA-256 of each file
    shard-*.safetensors
latest                a link to the newest one
best/                 the weights with the best validation score (trainer.checkpoints.best)

A checkpoint is written under a name that ends in `.partial`, flushed to the disk, and renamed.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import BadCheckpoint
from trainer.storage.atomic import flush_to_disk, move_into_place, write_link
from trainer.storage.manifest import (
    MANIFEST,
    Damaged,
    digest_file,
    read_manifest,
    verify_files,
    write_manifest,
)

FORMAT = 1
LATEST, BEST = "latest", "best"
LEAST_KEPT = 2
"""Checkpoints that are always kept, so that one is left if the newest is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified."""

    path: Path
    state: dict[str, Any]
    """Everything that is not a tensor."""

    @property
    def step(self) -> int:
        """The number of optimizer steps before it."""
        return int(self.state["step"])


@dataclass(frozen=True)
class CheckpointFolder:
    """Publishes, finds and prunes the checkpoints of a run."""

    path: Path
    keep_last: int = LEAST_KEPT

    def partial(self, step: int) -> Path:
        """Returns the place where the checkpoint of a step is written before it is published."""
        return self.path / f".{_name(step)}.partial"

    def publish(self, step: int, state: dict[str, Any], files: dict[str, Any]) -> Path:
        """Makes a written checkpoint visible, then moves `latest`, then removes old ones."""
        partial, place = self.partial(step), self.path / _name(step)
        write_manifest(partial, {"format": FORMAT, "state": state}, files)
        for name in files:
            flush_to_disk(partial / name)
        flush_to_disk(partial)
        move_into_place(partial, place)
        shutil.rmtree(partial, ignore_errors=True)  # a former checkpoint of that step
        write_link(self.path / LATEST, place.name)
        self._prune()
        return place

    def remove_partial(self, step: int | None = None) -> None:
        """Removes what a failed save (default: any killed process) has left behind."""
        pattern = ".step-*.partial" if step is None else self.partial(step).name
        for partial in self.path.glob(pattern):
            shutil.rmtree(partial, ignore_errors=True)

    def newest_valid(self) -> tuple[Checkpoint | None, list[str]]:
        """Returns the newest checkpoint that is whole, and why newer ones are not.

        Returns None if there is no checkpoint. Raises BadCheckpoint if all are damaged, or if a
        newer version of Nearfar has written one.
        """
        damages: list[str] = []
        for path in self._newest_first():
            try:
                return self._read(path), damages
            except Damaged as damage:
                damages.append(str(damage))
        if damages:
            reasons = "\n".join(f"  {damage}" for damage in damages)
            raise BadCheckpoint(
                f"no checkpoint in {self.path} is whole:\n{reasons}\nrestore these files from a"
                " copy, or start again with --replace, which moves the run aside"
            )
        return None, []

    def at(self, step: int) -> Checkpoint:
        """Returns the checkpoint of a step, which was verified before."""
        path = self.path / _name(step)
        return Checkpoint(path, read_manifest(path)["state"])

    def _read(self, path: Path) -> Checkpoint:
        content = read_manifest(path)
        if content.get("format") != FORMAT:
            raise BadCheckpoint(
                f"{path} has format {content.get('format')!r}, but this version of nearfar reads"
                f" format {FORMAT}; continue with the version that wrote it"
            )
        verify_files(path, content["files"])
        for name, digest in _best_files(content).items():
            file = self.path / BEST / name
            if not file.is_file():
                raise Damaged(f"{file}, which {path.name} needs, is missing")
            if digest_file(file)["sha256"] != digest:
                raise Damaged(f"{file}, which {path.name} needs, was altered")
        return Checkpoint(path, content["state"])

    def _prune(self) -> None:
        """Removes all but the newest checkpoints, and best weights that no checkpoint needs."""
        recent, old = self._split()
        for path in old:
            # The manifest first: without it, a folder that is removed in part is no checkpoint.
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
        needed_files: set[str] = set()
        for path in recent:
            try:
                needed_files |= set(_best_files(read_manifest(path)))
            except Damaged:
                return  # which weights it needs is unknown
        files = sorted((self.path / BEST).glob("step-*.safetensors"))
        for file in files[:-1]:  # the newest may be that of the next checkpoint
            if file.name not in needed_files:
                file.unlink(missing_ok=True)

    def _split(self) -> tuple[list[Path], list[Path]]:
        paths, count = self._newest_first(), max(self.keep_last, LEAST_KEPT)
        return paths[:count], paths[count:]

    def _newest_first(self) -> list[Path]:
        return sorted((path for path in self.path.glob("step-*") if path.is_dir()), reverse=True)


def _best_files(content: dict[str, Any]) -> dict[str, str]:
    """Returns the files in `best/` that a checkpoint needs, with their SHA-256."""
    return content["state"].get("best", {}).get("files", {})


def _name(step: int) -> str:
    return f"step-{step:09}"
