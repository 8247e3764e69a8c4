"""What the data of a run was: enough to notice that it has changed."""

import hashlib
from pathlib import Path
from typing import Any

from trainer.recipe.schema import Data


def fingerprint(data: Data, training_rows: int, corpus: str | None = None) -> dict[str, Any]:
    """Number of training rows, and for each local source, and the corpus that is mined, the sha256
    over its files; a hub data set goes by its name alone.
    """
    train = [fingerprint_of(source.source) for source in data.sources]
    held_out = {
        role: fingerprint_of(source)
        for role, source in (
            ("validation", data.validation),
            ("test", data.test),
            ("corpus", corpus),
        )
        if source
    }
    return {
        "training_rows": training_rows,
        "train": train[0] if isinstance(data.train, str) else train,
        **held_out,
    }


def fingerprint_of(source: str) -> dict[str, str | None]:
    """What was named, and the sha256 over its files; None where it is none of this machine."""
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
