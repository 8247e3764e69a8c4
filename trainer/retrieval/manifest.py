"""`manifest.json` of an index folder: what the index is, and how each of its files was when it was written."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from trainer.errors import BadFolder

Kind = Literal["flat", "hnsw", "ivf"]

MANIFEST = "manifest.json"
FILES = ("vectors.npy", "documents.jsonl", "offsets.npy", "probe.npy", "index.faiss")
_BLOCK = 1 << 20
_BLOCKS = 64


class FileRecord(BaseModel):
    """How a file was when the index was built."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bytes: NonNegativeInt
    sha256: str


class Manifest(BaseModel):
    """What an index folder says about itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    model: str
    """The folder or name that queries must be encoded with."""
    kind: Kind
    count: PositiveInt
    dimensions: PositiveInt
    approximate: dict[str, float]
    """FAISS's settings, and the recall_at_10 they reached against exact search; empty for flat."""
    files: dict[str, FileRecord]

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` into `folder`."""
        (folder / MANIFEST).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest in `folder`. Raises BadFolder when there is none, or it is damaged or of another format."""
        path = folder / MANIFEST
        if not path.is_file():
            raise BadFolder(f"{folder} is not an index: it has no {MANIFEST}; build one with `nearfar index MODEL CORPUS -o {folder}`")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("format") != 1:
                raise BadFolder(f"{path} is of format {content.get('format')!r} and this nearfar reads format 1; build the index again")
            manifest = cls.model_validate(content)
        except (OSError, ValueError) as error:
            detail = "; ".join(f"{each['loc']}: {each['msg']}" for each in error.errors()[:2]) if isinstance(error, ValidationError) else str(error)
            raise BadFolder(f"{path} is damaged ({detail}); build the index again with `nearfar index`") from error
        needed = set(FILES) - ({"index.faiss"} if manifest.kind == "flat" else set())
        if set(manifest.files) != needed:
            raise BadFolder(f"{path} lists other files than an index of kind {manifest.kind} has; build the index again with `nearfar index`")
        return manifest

    def check_files(self, folder: Path) -> None:
        """Raises BadFolder when a file is missing, cut or altered."""
        for name, record in self.files.items():
            path = folder / name
            if not path.is_file() or path.is_symlink():
                raise BadFolder(f"{folder} is not whole: {name} is missing; build the index again with `nearfar index`")
            size = path.stat().st_size
            if size != record.bytes or _fingerprint(path) != record.sha256:
                what = f"has {size} bytes instead of {record.bytes}" if size != record.bytes else "was altered"
                raise BadFolder(f"{path} {what} since the index was built; build it again with `nearfar index`, or copy the folder anew")


def check_index_folder(folder: Path, replace: bool) -> None:
    """Raises BadFolder when an index cannot be written to `folder`; to be called before anything slow."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BadFolder(f"{folder} is a file or a link, not a folder; choose another place for the index")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there and not replace:
        raise BadFolder(f"{folder} is not empty; choose another place for the index, or replace the one there with --replace")
    if there and (MANIFEST not in there or there - {MANIFEST, *FILES}):
        raise BadFolder(f"{folder} holds something other than an index, which --replace will not remove; choose another place")


def describe_files(folder: Path) -> dict[str, FileRecord]:
    """A record of every file that a search needs."""
    there = [name for name in FILES if (folder / name).exists()]
    return {name: FileRecord(bytes=(folder / name).stat().st_size, sha256=_fingerprint(folder / name)) for name in there}


def _fingerprint(path: Path) -> str:
    """SHA-256 of a file of up to 64 MB; of a larger one, of 64 blocks of 1 MB spread evenly from the first to the last, so that opening is quick."""
    digest, size = hashlib.sha256(), path.stat().st_size
    starts = range(0, size, _BLOCK) if size <= _BLOCKS * _BLOCK else [part * (size - _BLOCK) // (_BLOCKS - 1) for part in range(_BLOCKS)]
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()
