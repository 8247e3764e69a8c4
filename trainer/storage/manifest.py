"""`manifest.json`: what a folder contains, with the size and the SHA-256 of each file."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainer.storage.atomic import write_text

MANIFEST = "manifest.json"
_SEAL = "sha256"
_BLOCK, _BLOCKS = 1 << 20, 64
FileDigest = dict[str, int | str]
"""`{"bytes": ..., "sha256": ...}`."""


class Damaged(Exception):
    """Raised when a file is missing, truncated or altered. The message says which and how."""


def write_manifest(folder: Path, content: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Writes `manifest.json` with `content`, the records of all files, and the SHA-256 of both."""
    content = {**content, "files": dict(files)}
    text = json.dumps({**content, _SEAL: digest_of(content)}, indent=1, allow_nan=False)
    write_text(folder / MANIFEST, text + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the content of `manifest.json`, with its `files`. Raises Damaged."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        seal = content.pop(_SEAL)
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if seal != digest_of(content):
        raise Damaged(f"{path} was altered: its SHA-256 is not the recorded one")
    return content


def digest_files(folder: Path, names: Iterable[str]) -> dict[str, FileDigest]:
    """Returns the size and SHA-256 of files of a folder, by name."""
    return {name: digest_file(folder / name) for name in sorted(names)}


def digest_file(path: Path) -> FileDigest:
    """Returns the size and SHA-256 of a file."""
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def verify_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Reads all files. Raises Damaged for the first that is missing, truncated or altered."""
    for name, record in files.items():
        path = folder / name
        if not path.is_file() or path.is_symlink():
            raise Damaged(f"{path} is missing")
        if (size := path.stat().st_size) != record["bytes"]:
            raise Damaged(f"{path} has {size:,} bytes instead of {record['bytes']:,}")
        try:
            is_altered = digest_file(path) != dict(record)
        except OSError as error:
            raise Damaged(f"{path} cannot be read: {error.strerror}") from error
        if is_altered:
            raise Damaged(f"{path} was altered: its SHA-256 is not the recorded one")


def digest_of(content: Any) -> str:
    """Returns the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def add_sample(digest: Any, path: Path) -> None:
    """Adds the bytes of a file to a hash, so that large files take little time.

    Of a file above 64 MB only 64 blocks of 1 MB are read, evenly spread from the first to the last.
    """
    size = path.stat().st_size
    starts = (
        range(0, size, _BLOCK)
        if size <= _BLOCKS * _BLOCK
        else [part * (size - _BLOCK) // (_BLOCKS - 1) for part in range(_BLOCKS)]
    )
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(_BLOCK))
