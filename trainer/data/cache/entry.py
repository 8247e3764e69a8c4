"""An entry of the cache: Arrow files, facts about them, and a manifest that shows damage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainer.data.rows import map_table
from trainer.storage.manifest import (
    MANIFEST,
    Damaged,
    digest_files,
    digest_of,
    read_manifest,
    verify_files,
    write_manifest,
)

EntryKey = Mapping[str, Any]
"""All that the content of an entry depends on. It can be written as JSON."""
Build = Callable[[Path], Mapping[str, Any]]
"""Writes the Arrow files of an entry into a folder, and returns facts about them."""


@dataclass(frozen=True, eq=False)
class Entry:
    """The content of an entry."""

    tables: Mapping[str, pa.Table]
    """The name of each file to its table, which is memory-mapped."""
    facts: Mapping[str, Any]
    sha256: Mapping[str, str]
    """The name of each file to its SHA-256; empty for an entry outside the cache."""

    @classmethod
    def outside_cache(cls, folder: Path, facts: Mapping[str, Any]) -> "Entry":
        """Returns the content of a folder, which may be deleted then."""
        return cls({path.name: map_table(path) for path in folder.glob("*.arrow")}, facts, {})


def write_entry_manifest(folder: Path, key: EntryKey, facts: Mapping[str, Any]) -> None:
    """Writes the manifest of an entry: key, facts, and the digests of its Arrow files."""
    files = digest_files(folder, [path.name for path in folder.glob("*.arrow")])
    write_manifest(folder, {"key": key, "facts": facts}, files)


def open_entry(folder: Path, key: EntryKey) -> Entry | None:
    """Opens an entry, or returns None if there is none. Every byte is compared with its digest.

    Raises Damaged if the entry is incomplete, altered, or of another key.
    """
    if not folder.exists():
        return None
    content = read_manifest(folder)
    if digest_of(content.get("key")) != digest_of(key):
        raise Damaged(f"{folder / MANIFEST} belongs to other data")
    files = content["files"]
    verify_files(folder, files)
    sha256 = {name: record["sha256"] for name, record in files.items()}
    return Entry({name: map_table(folder / name) for name in files}, content["facts"], sha256)
