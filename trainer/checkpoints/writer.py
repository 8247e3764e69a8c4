"""Writes and reads the tensors of checkpoints, in safetensors files, shared out among ranks.

PyTorch's distributed checkpoints do the work. Each rank writes what it holds; a tensor that all
ranks have is written once. Nothing is pickled to the disk.
"""

import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from trainer.checkpoints.folder import CheckpointFolder
from trainer.collectives import Control, gather_objects, rank, ranks
from trainer.storage.atomic import DISK_FULL
from trainer.storage.manifest import digest_files

_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class Save:
    """A save that has ended."""

    step: int
    seconds: float
    """Time from its start until it was published."""
    bytes: int
    error: str | None = None
    """Why it failed; None: the checkpoint is published."""
    is_folder_gone: bool = False


class CheckpointWriter:
    """Saves one checkpoint at a time, in a thread. All ranks must use it in the same order."""

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self.last: Save | None = None
        """The last save that has ended; the same on all ranks."""
        self.failures = 0
        """The number of saves in a row that have failed."""
        # The thread agrees with those of other ranks while the main threads train.
        self._group = (
            distributed.new_group(backend="gloo", timeout=_TIMEOUT) if ranks() > 1 else None
        )
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a save has not ended on this rank."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> float:
        """Copies the tensors to main memory, and writes the copies in a thread. Returns the seconds
        that the copy took.

        A save that is going on must end first, so this waits for it.
        """
        self.wait()
        start_time = time.monotonic()
        _check_tensors(tensors)
        partial = self.folder.partial(step)
        storage = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            future = dcp.async_save(
                dict(tensors),
                storage_writer=storage,
                process_group=self._group,
                no_dist=self._group is None,
            )
        arguments = (future, step, state, start_time)
        self._thread = threading.Thread(target=self._finish, args=arguments, name="checkpoint")
        self._thread.start()
        return time.monotonic() - start_time

    def wait(self) -> None:
        """Waits until no save is going on."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _finish(self, future: Any, step: int, state: dict[str, Any], start_time: float) -> None:
        """Waits for the files of this rank, and lets the first rank publish those of all."""
        error, files = "", {}
        try:
            future.result()
            own_files = self.folder.partial(step).glob(f"shard-{rank() + 1:05}-*.safetensors")
            files = digest_files(self.folder.partial(step), [path.name for path in own_files])
        except BaseException as failure:  # noqa: BLE001 - PyTorch's own is not an Exception
            error = _reason(failure)
        save = self._publish(gather_objects((error, files), self._group), step, state, start_time)
        (self.last,) = gather_objects(save, self._group)[:1]
        self.failures = self.failures + 1 if self.last.error else 0

    def _publish(
        self, results: list[Any], step: int, state: dict[str, Any], start_time: float
    ) -> Save | None:
        """Publishes the checkpoint on the first rank; returns None on the others."""
        if rank() != 0:
            return None
        errors = [error for error, _ in results if error]
        files = {name: record for _, records in results for name, record in records.items()}
        try:
            if not errors:
                self.folder.publish(step, state, files)
        except Exception as failure:  # noqa: BLE001 - reported on all ranks
            errors.append(_reason(failure))
        if errors:
            self.folder.remove_partial(step)
        size = sum(int(record["bytes"]) for record in files.values())
        is_gone = not self.folder.path.parent.is_dir()
        seconds = time.monotonic() - start_time
        return Save(step, seconds, size, errors[0] if errors else None, is_gone)


def stored_names(path: Path) -> set[str]:
    """Returns the names of the tensors in a checkpoint."""
    metadata = HuggingFaceStorageReader(str(path)).read_metadata()
    return set(metadata.state_dict_metadata)


def read_state(path: Path, tensors: dict[str, Shaped[Tensor, "..."]]) -> None:
    """Reads tensors of a checkpoint into `tensors`, in place. A sharded tensor gets its own part.

    All ranks must call it.
    """
    if not tensors:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(
            tensors,
            storage_reader=HuggingFaceStorageReader(str(path)),
            process_group=Control.group,
            no_dist=ranks() == 1,
        )


def _check_tensors(tensors: Mapping[str, Any]) -> None:
    """Raises TypeError for a value that is not a tensor, which the files could not be read with."""
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}, not a tensor")


def _reason(failure: BaseException) -> str:
    """Returns the text of an error, or of the one that PyTorch has wrapped."""
    inner_failures = getattr(failure, "failures", None)
    if inner_failures:
        failure = next(iter(inner_failures.values()))[0]
    if isinstance(failure, OSError) and failure.errno in DISK_FULL:
        return "no space left on the disk"
    return f"{type(failure).__name__}: {failure}"
