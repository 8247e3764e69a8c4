"""The folder of the cache: finds entries, and builds the missing ones, one process at a time.

Each entry has a folder of its own, named by the digest of its key. A process that builds the entry
has the lock of that folder, which ends with the process. The others wait, and then map the same
files: the ranks of a node, and other runs.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

from trainer.data.cache.entry import (
    Build,
    Entry,
    EntryKey,
    open_entry,
    write_entry_manifest,
)
from trainer.errors import BadFolder
from trainer.progress import phase
from trainer.storage.atomic import atomic_folder
from trainer.storage.locks import holder_of, is_locked, lock_folder
from trainer.storage.manifest import MANIFEST, Damaged, digest_of

VARIABLE, OFF = "NEARFAR_CACHE", "off"
_CONTENT = "content"
_KEEP_SECONDS = 30 * 24 * 3600
"""An entry that no run has opened for this long is removed when another one is built."""
_STALLED_SECONDS = 1800
"""The wait for another process ends when it has written nothing for this long."""
_POLL_SECONDS = 0.2
_log = logging.getLogger("nearfar.data")


def cache_folder() -> Path | None:
    """Returns the folder of parsed data, or None if the cache is off (`NEARFAR_CACHE=off`)."""
    folder = user_cache()
    return None if folder is None else folder / "rows"


def user_cache() -> Path | None:
    """Returns Nearfar's cache of this user, or None if it is off.

    It is `$NEARFAR_CACHE`, else `nearfar` in `$XDG_CACHE_HOME`, else `~/.cache/nearfar`.
    """
    if folder := os.environ.get(VARIABLE):
        return None if folder == OFF else Path(folder).absolute()
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder).absolute() / "nearfar"
    try:
        return Path.home() / ".cache" / "nearfar"
    except RuntimeError:  # no home folder
        return None


def find_or_build(key: EntryKey | None, build: Build, subject: str) -> Entry:
    """Returns the entry with this key, and builds it if there is none or if it is damaged.

    Without a key, or if the cache is off, read-only or on a full disk, the entry is built in a
    temporary folder. `subject` names the data in messages. Raises what `build` raises.
    """
    folder = cache_folder()
    if key is not None and folder is not None:
        try:
            return _find_or_build(folder / digest_of(key)[:32], key, build, subject)
        except (OSError, BadFolder) as error:
            _log.warning(
                "the cache of parsed data in %s cannot be used (%s): %s is parsed again at each"
                " start. Name a folder with free space, %s=FOLDER, or switch the cache off, %s=%s.",
                folder,
                error,
                subject,
                VARIABLE,
                VARIABLE,
                OFF,
            )
    with tempfile.TemporaryDirectory(prefix="nearfar-data-") as temporary:
        return Entry.outside_cache(Path(temporary), build(Path(temporary)))


def _find_or_build(folder: Path, key: EntryKey, build: Build, subject: str) -> Entry:
    """Returns the entry in `folder`. Raises OSError if the folder cannot be used."""
    content = folder / _CONTENT
    while True:
        with contextlib.suppress(Damaged):
            if (entry := open_entry(content, key)) is not None:
                with contextlib.suppress(OSError):  # a read-only cache
                    os.utime(content / MANIFEST)
                return entry
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = lock_folder(folder, "{holder}")
        except BadFolder as error:
            _wait(folder, subject, str(error))
            continue
        with lock:
            return _build(content, key, build)


def _build(content: Path, key: EntryKey, build: Build) -> Entry:
    """Builds the entry, unless another process has built it before this one had the lock."""
    try:
        if (entry := open_entry(content, key)) is not None:
            return entry
    except Damaged as error:
        _log.warning("%s; it is built again from the data", error)
    _remove_unused(content.parent)
    with atomic_folder(content) as partial:
        write_entry_manifest(partial, key, build(partial))
    try:
        entry = open_entry(content, key)
    except Damaged as error:
        raise OSError(f"{error} as soon as it was written") from error
    if entry is None:
        raise FileNotFoundError(f"{content} was removed")
    return entry


def _wait(folder: Path, subject: str, holder: str) -> None:
    """Waits until no process has the lock of the folder.

    Raises TimeoutError if the process with the lock has written nothing for half an hour.
    """
    with phase(f"waiting for {holder}, which reads {subject}") as progress:
        while is_locked(folder):
            if time.time() - _last_write(folder) > _STALLED_SECONDS:
                raise TimeoutError(
                    f"{holder_of(folder)} has written nothing for {_STALLED_SECONDS // 60} minutes"
                )
            progress.advance(0)  # this process does not hang
            time.sleep(_POLL_SECONDS)


def _last_write(folder: Path) -> float:
    """Returns the latest modification time in a folder, whose files may be renamed meanwhile."""
    times = [0.0]
    for parent, _, names in os.walk(folder):
        for path in (Path(parent), *(Path(parent, name) for name in names)):
            with contextlib.suppress(OSError):
                times.append(path.stat().st_mtime)
    return max(times)


def _remove_unused(folder: Path) -> None:
    """Removes what killed processes left in this folder, and entries that are no longer used."""
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)
    for entry in folder.parent.iterdir():
        manifest = entry / _CONTENT / MANIFEST
        with contextlib.suppress(OSError):
            used = (manifest if manifest.exists() else entry).stat().st_mtime
            if time.time() - used > _KEEP_SECONDS and entry != folder and not is_locked(entry):
                shutil.rmtree(entry)
