"""`manifest.json` of an index folder: what the index is, and how each of its files was when it was
written.
"""

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from trainer.errors import BadFolder

DenseIndexKind = Literal["flat", "hnsw", "ivf"]

MANIFEST = "manifest.json"
FILES = ("vectors.npy", "documents.jsonl", "offsets.npy", "probe.npy", "index.faiss")
TOKEN_KINDS = ("exact", "compressed")
"""Kinds of an index of token vectors, whose manifest is a
`trainer.retrieval.token_index.manifest.LateManifest`.
"""
CODEC_FILES = ("centroids.npy", "rotation.npy", "books.npy", "spread.npy")
"""What codes of token vectors stand for."""
_OF_TOKENS = re.compile(
    rf"(manifest\.new|\.manifest\.json\.[0-9a-f]{{8}}\.partial|{'|'.join(map(re.escape, CODEC_FILES))}|(vectors|offsets|lengths|ids|codes|means|documents|deleted-\d+)-\d+\.(npy|jsonl))"  # noqa: E501 - one pattern
)
_SEAL = "sha256"
_BLOCK = 1 << 20
_BLOCKS = 64
_TRIES = 10
_Model = TypeVar("_Model", bound=BaseModel)
_Manifest = TypeVar("_Manifest", bound="AnyManifest")
_Index = TypeVar("_Index")


class FileRecord(BaseModel):
    """How a file was when the index was built."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bytes: NonNegativeInt
    sha256: str


class AnyManifest(BaseModel):
    """What every index says about itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    model: str
    """The folder or name that queries must be encoded with."""
    layers: PositiveInt | None = None
    """Of that model the first so many layers; None: all, as in an index older than this field."""
    files: dict[str, FileRecord]

    def check_files(self, folder: Path) -> None:
        """Raises BadFolder when a file is missing, cut or altered."""
        check_files(folder, self.files)

    def sealed(self) -> str:
        """What is written: everything, and the SHA-256 of it."""
        content = self.model_dump(mode="json")
        return (
            json.dumps(
                content | {_SEAL: _seal(content)}, indent=2, ensure_ascii=False, allow_nan=False
            )
            + "\n"
        )

    @property
    def made_with(self) -> str:
        """The model, and how much of it, in words."""
        if self.layers is None:
            return self.model
        return (
            f"the first {'layer' if self.layers == 1 else f'{self.layers} layers'} of {self.model}"
        )


class DenseManifest(AnyManifest):
    """What an index of one vector a document says about itself."""

    kind: DenseIndexKind
    count: PositiveInt
    dimensions: PositiveInt
    approximate: dict[str, float]
    """FAISS's settings, and the recall_at_10 they reached against exact search; empty for flat."""

    @property
    def summary(self) -> str:
        """What the index holds, in one line."""
        settings = [f"{name} {value:g}" for name, value in self.approximate.items()]
        dimensions = f"{self.dimensions} dimensions"
        return ", ".join([f"{self.count:,} documents", self.kind, dimensions, *settings])

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` into `folder`."""
        (folder / MANIFEST).write_text(self.sealed(), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "DenseManifest":
        """The manifest in `folder`. Raises BadFolder when there is none, or it is damaged or of
        another format.
        """
        content = read_content(folder)
        if content.get("kind") in TOKEN_KINDS:
            raise BadFolder(
                f"{folder} is an index of token vectors, kind {content['kind']}, for a"
                " late-interaction model; not of one vector a document"
            )
        manifest = validated(cls, content, folder)
        needed = set(FILES) - ({"index.faiss"} if manifest.kind == "flat" else set())
        if set(manifest.files) != needed:
            raise BadFolder(
                f"{folder / MANIFEST} lists other files than an index of kind {manifest.kind} has;"
                " build the index again with `nearfar index`"
            )
        return manifest


def read_content(folder: Path) -> dict[str, Any]:
    """What `manifest.json` in `folder` says, of any kind. Raises BadFolder when there is none, or
    it is damaged or of another format.
    """
    path = folder / MANIFEST
    with readable(path):
        there = path.is_file()
    if not there:
        raise BadFolder(
            f"{folder} is not an index: it has no {MANIFEST}; build one with `nearfar index MODEL"
            f" CORPUS -o {folder}`"
        )
    try:
        with readable(path):
            content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except ValueError as error:
        raise BadFolder(
            f"{path} is damaged ({error}); build the index again with `nearfar index`"
        ) from error
    if not isinstance(content, dict):
        raise BadFolder(
            f"{path} is damaged (no JSON object); build the index again with `nearfar index`"
        )
    if content.get("format") != 1:
        raise BadFolder(
            f"{path} is of format {content.get('format')!r} and this nearfar reads format 1; build"
            " the index again"
        )
    seal = content.pop(_SEAL, None)  # an index older than this field has none
    if seal is not None and seal != _seal(content):
        raise BadFolder(
            f"{path} was altered since the index was built; build it again with `nearfar index`, or"
            " copy the folder anew"
        )
    return content


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def validated(model: type[_Model], content: Mapping[str, Any], folder: Path) -> _Model:
    """The manifest that `content` is. Raises BadFolder where it is not one."""
    try:
        return model.model_validate_json(json.dumps(content))
    except ValidationError as error:
        detail = "; ".join(f"{each['loc']}: {each['msg']}" for each in error.errors()[:2])
        raise BadFolder(
            f"{folder / MANIFEST} is damaged ({detail}); build the index again with `nearfar index`"
        ) from error


def opened(
    folder: Path, read: Callable[[Path], _Manifest], index: Callable[[Path, _Manifest], _Index]
) -> _Index:
    """The `index` of a folder and its manifest, all of it of one time: opened again where the
    manifest was exchanged meanwhile.

    Raises BadFolder as `read` and `index` do, where a file is missing, cut or altered, and where
    the folder is changed each time that it is opened.
    """
    for _ in range(_TRIES):
        manifest = read(folder)
        try:
            manifest.check_files(folder)
            found = index(folder, manifest)
        except BadFolder:
            if read(folder) == manifest:
                raise
        else:
            if read(folder) == manifest:
                return found
    raise BadFolder(
        f"{folder} was changed by another process each of the {_TRIES} times that it was opened;"
        " try again once those changes are over"
    )


def check_files(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Raises BadFolder when a file is missing, cut or altered, or cannot be read."""
    for name, record in files.items():
        path = folder / name
        with readable(path):
            if not path.is_file() or path.is_symlink():
                raise _missing(path)
            size = path.stat().st_size
            altered = size == record.bytes and _fingerprint(path) != record.sha256
        if size != record.bytes or altered:
            what = "was altered" if altered else f"has {size} bytes instead of {record.bytes}"
            raise BadFolder(
                f"{path} {what} since the index was built; build it again with `nearfar index`, or"
                " copy the folder anew"
            )


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises BadFolder in the place of what the system says when a file of an index cannot be read,
    gone since it was looked for too.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            why = (
                "too many files are open, and every index that is open holds some; let go of those"
                " no longer needed, or raise the limit (`ulimit -n`)"
            )
        else:
            why = f"{error.strerror or error}; see to the disk and to who may read the file"
        raise BadFolder(f"{path} cannot be read: {why}") from error


def _missing(path: Path) -> BadFolder:
    return BadFolder(
        f"{path.parent} is not whole: {path.name} is missing; build the index again with `nearfar"
        " index`"
    )


def belongs_to_index(name: str) -> bool:
    """Whether a file of this name in an index folder is ours, in use or left behind by a process
    that was killed.
    """
    return name == MANIFEST or name in FILES or _OF_TOKENS.fullmatch(name) is not None


def describe_files(folder: Path, names: Iterable[str] = FILES) -> dict[str, FileRecord]:
    """A record of every file of these that is there."""
    there = [name for name in names if (folder / name).exists()]
    return {
        name: FileRecord(bytes=(folder / name).stat().st_size, sha256=_fingerprint(folder / name))
        for name in there
    }


def _fingerprint(path: Path) -> str:
    """SHA-256 of a file of up to 64 MB; of a larger one, of 64 blocks of 1 MB spread evenly from
    the first to the last, so that opening is quick.
    """
    digest, size = hashlib.sha256(), path.stat().st_size
    starts = (
        range(0, size, _BLOCK)
        if size <= _BLOCKS * _BLOCK
        else [part * (size - _BLOCK) // (_BLOCKS - 1) for part in range(_BLOCKS)]
    )
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()
