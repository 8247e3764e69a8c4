"""Fingerprints of the data of a run, which show later whether the data have changed."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import BadData
from trainer.progress import Activity

_BLOCK = 1 << 20


class SourceDigests:
    """The SHA-256 of data sources. That of each source is computed once."""

    def __init__(self) -> None:
        self._digests: dict[str, str | None] = {}

    def digest(self, source: str) -> str | None:
        """Returns the SHA-256 over the files of a source, as of its first call.

        It is None if the source is not on this machine, such as a hub data set.
        """
        if source not in self._digests:
            self._digests[source] = _sha256(Path(source))
        return self._digests[source]

    def fingerprint(self, source: str) -> dict[str, str | None]:
        """Returns the name of a source and its SHA-256."""
        return {"source": source, "sha256": self.digest(source)}

    def __str__(self) -> str:
        """The sources with their digests, which must be equal on all ranks."""
        return "\n".join(f"{source} {digest}" for source, digest in self._digests.items())

    def check_unchanged(self, source: str) -> None:
        """Raises BadData if the source has changed since its digest was computed."""
        if _sha256(Path(source)) != self.digest(source):
            raise BadData(
                f"{source} was changed while it was read; start again when it is complete"
            )


def fingerprint_sources(
    train: str | Sequence[str],
    training_rows: int,
    sources: Mapping[str, str | Sequence[str] | None],
    digests: SourceDigests,
) -> dict[str, Any]:
    """Returns the number of training rows, and the fingerprints of all data sources.

    `sources` are the sources by their role, such as `validation`: one, or several in a list.
    """
    fingerprint = digests.fingerprint
    sources_by_role = {"train": train, **sources}
    return {
        "training_rows": training_rows,
        **{
            role: fingerprint(names) if isinstance(names, str) else [*map(fingerprint, names)]
            for role, names in sources_by_role.items()
            if names
        },
    }


def fingerprint_of(source: str) -> dict[str, str | None]:
    """Returns the name of a source and the SHA-256 over its files."""
    return SourceDigests().fingerprint(source)


def _files(source: Path) -> list[Path]:
    """Returns the files of a source. Those of a folder with corpus.jsonl are the ones that are
    read, so a run may write into the same folder.
    """
    if not source.is_dir():
        return [source]
    paths = sorted(source.rglob("*"))
    if not any((source / f"corpus.jsonl{suffix}").is_file() for suffix in ("", ".gz")):
        return paths
    names = {
        f"{name}{suffix}"
        for name in ("corpus", "queries", "train")
        for suffix in (".jsonl", ".jsonl.gz", ".parquet")
    }
    return [path for path in paths if path.relative_to(source).parts[0] in {*names, "qrels"}]


def _sha256(source: Path) -> str | None:
    if not source.exists():
        return None
    digest = hashlib.sha256()
    for path in _files(source):
        if path.is_file():
            digest.update(str(path.relative_to(source)).encode() + b"\0")
            content = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    content.update(block)
                    Activity.note()
            digest.update(content.digest())
    return digest.hexdigest()
