"""Fingerprints of the data of a run, which show later whether the data have changed."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def fingerprint_sources(
    train: str | Sequence[str], training_rows: int, sources: Mapping[str, str | None]
) -> dict[str, Any]:
    """Returns the number of training rows, and the fingerprints of all data sources.

    `sources` are the sources by their role, such as `validation`.
    """
    return {
        "training_rows": training_rows,
        "train": (
            fingerprint_of(train) if isinstance(train, str) else [*map(fingerprint_of, train)]
        ),
        **{role: fingerprint_of(source) for role, source in sources.items() if source},
    }


def fingerprint_of(source: str) -> dict[str, str | None]:
    """Returns the name of a source and the SHA-256 over its files.

    The SHA-256 is None if the source is not on this machine, such as a hub data set.
    """
    return {"source": source, "sha256": _sha256(Path(source))}


def _sha256(source: Path) -> str | None:
    if not source.exists():
        return None
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
        if path.is_file():
            digest.update(str(path.relative_to(source)).encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
