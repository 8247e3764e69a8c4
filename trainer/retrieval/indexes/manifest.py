"""`manifest.json` of an index folder: properties of the index, and size and hash of each file."""

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
from trainer.storage.atomic import write_text
from trainer.storage.manifest import add_sample, digest_of
from trainer.storage.near_paths import missing_path

DenseIndexKind = Literal["flat", "hnsw", "ivf"]

MANIFEST = "manifest.json"
FILES = ("vectors.npy", "documents.jsonl", "offsets.npy", "probe.npy", "index.faiss")
SPARSE_FILES = (
    *("starts.npy", "rows.npy", "weights.npy"),
    *("documents.jsonl", "offsets.npy", "probe.npy"),
)
TOKEN_KINDS = ("exact", "compressed")
"""Kinds of token indexes, whose manifest is a
`trainer.retrieval.token_index.manifest.TokenManifest`.
"""
CODEC_FILES = ("centroids.npy", "rotation.npy", "books.npy", "spread.npy")
"""The files of the codec that compresses token vectors."""
_TOKEN_PARTS = (
    rf"{'|'.join(map(re.escape, CODEC_FILES))}"
    r"|(vectors|offsets|lengths|ids|codes|means|documents|deleted-\d+)-\d+\.(npy|jsonl)"
)
_TOKEN_INDEX_FILES = re.compile(
    rf"manifest\.new|{_TOKEN_PARTS}|\.(manifest\.json|{_TOKEN_PARTS})\.[0-9a-f]{{8}}\.partial"
)
_SEAL = "sha256"
_TRIES = 10
_Model = TypeVar("_Model", bound=BaseModel)
_Manifest = TypeVar("_Manifest", bound="AnyManifest")
_Index = TypeVar("_Index")


class FileRecord(BaseModel):
    """Size and hash of a file when the index was built."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bytes: NonNegativeInt
    sha256: str


class AnyManifest(BaseModel):
    """The fields that the manifest of every index has."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    model: str
    """The folder or name of the model that must encode the queries."""
    layers: PositiveInt | None = None
    """The number of the model's first layers that are used; None: all, also in old indexes."""
    files: dict[str, FileRecord]

    def check_files(self, folder: Path) -> None:
        """Raises BadFolder when a file is missing, truncated or altered."""
        check_files(folder, self.files)

    def to_sealed_json(self) -> str:
        """Returns the text of `manifest.json`: all fields, and their SHA-256."""
        content = self.model_dump(mode="json")
        return (
            json.dumps(
                content | {_SEAL: digest_of(content)}, indent=2, ensure_ascii=False, allow_nan=False
            )
            + "\n"
        )

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` into `folder`."""
        write_text(folder / MANIFEST, self.to_sealed_json())

    @property
    def made_with(self) -> str:
        """A phrase that names the model and how many of its layers are used."""
        if self.layers is None:
            return self.model
        return (
            f"the first {'layer' if self.layers == 1 else f'{self.layers} layers'} of {self.model}"
        )


class DenseManifest(AnyManifest):
    """The manifest of an index with one vector per document."""

    kind: DenseIndexKind
    count: PositiveInt
    dimensions: PositiveInt
    has_images: bool = False
    """Whether the documents are images; old indexes have texts."""
    approximate: dict[str, float]
    """FAISS settings, and their recall_at_10 against exact search; empty for flat."""

    @property
    def summary(self) -> str:
        """One line that describes the content of the index."""
        settings = [f"{name} {value:g}" for name, value in self.approximate.items()]
        dimensions = f"{self.dimensions} dimensions"
        documents = f"{self.count:,} {'images' if self.has_images else 'documents'}"
        return ", ".join([documents, self.kind, dimensions, *settings])

    @classmethod
    def read(cls, folder: Path) -> "DenseManifest":
        """Reads the manifest in `folder`.

        Raises BadFolder when there is none, or it is damaged or of another format.
        """
        content = read_content(folder)
        if content.get("kind") in TOKEN_KINDS:
            raise BadFolder(
                f"{folder} is an index of token vectors (kind {content['kind']}) for a"
                " late-interaction model; give an index with one vector per document"
            )
        manifest = parse_manifest(cls, content, folder)
        expected_files = set(FILES) - ({"index.faiss"} if manifest.kind == "flat" else set())
        if set(manifest.files) != expected_files:
            raise BadFolder(
                f"{folder / MANIFEST} does not list the files of an index of kind {manifest.kind};"
                " build the index again with `nearfar index`"
            )
        return manifest


def read_content(folder: Path) -> dict[str, Any]:
    """Returns the content of `manifest.json` in `folder`, for an index of any kind.

    Raises BadFolder when there is none, or it is damaged or of another format.
    """
    path = folder / MANIFEST
    with readable(path):
        exists = path.is_file()
    if not exists and not folder.exists():
        raise BadFolder(missing_path(folder, "; give the folder of an index"))
    if not exists:
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
            f"{path} is damaged (not a JSON object); build the index again with `nearfar index`"
        )
    if "features" in content:
        raise BadFolder(
            f"{folder} is a router, no index; write `nearfar search INDEX QUESTION --router"
            f" {folder}`"
        )
    if content.get("format") != 1:
        raise BadFolder(
            f"{path} has format {content.get('format')!r}, but this version of nearfar reads format"
            " 1; build the index again"
        )
    seal = content.pop(_SEAL, None)  # old indexes have none
    if seal is not None and seal != digest_of(content):
        raise BadFolder(
            f"{path} was altered since the index was built; build it again with `nearfar index`, or"
            " copy the folder again"
        )
    return content


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def parse_manifest(model: type[_Model], content: Mapping[str, Any], folder: Path) -> _Model:
    """Returns `content` as a manifest. Raises BadFolder when it is not valid."""
    try:
        return model.model_validate_json(json.dumps(content))
    except ValidationError as error:
        detail = "; ".join(f"{detail['loc']}: {detail['msg']}" for detail in error.errors()[:2])
        raise BadFolder(
            f"{folder / MANIFEST} is damaged ({detail}); build the index again with `nearfar index`"
        ) from error


def open_consistent(
    folder: Path, read: Callable[[Path], _Manifest], index: Callable[[Path, _Manifest], _Index]
) -> _Index:
    """Opens a folder so that manifest and files belong together; returns `index(folder, manifest)`.

    If another process replaces the manifest meanwhile, the folder is opened again. Raises BadFolder
    as `read` and `index` do, when a file is missing, truncated or altered, and when the folder
    changes at each try.
    """
    for _ in range(_TRIES):
        manifest = read(folder)
        try:
            manifest.check_files(folder)
            opened_index = index(folder, manifest)
        except BadFolder:
            if read(folder) == manifest:
                raise
        else:
            if read(folder) == manifest:
                return opened_index
    raise BadFolder(
        f"another process changed {folder} each of the {_TRIES} times that it was opened; try again"
        " after those changes"
    )


def check_files(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Raises BadFolder when a file is missing, truncated or altered, or cannot be read."""
    for name, record in files.items():
        path = folder / name
        with readable(path):
            if not path.is_file() or path.is_symlink():
                raise _missing(path)
            size = path.stat().st_size
            is_altered = size == record.bytes and _fingerprint(path) != record.sha256
        if size != record.bytes or is_altered:
            problem = "was altered" if is_altered else f"has {size} bytes instead of {record.bytes}"
            raise BadFolder(
                f"{path} {problem} since the index was built; build it again with `nearfar index`,"
                " or copy the folder again"
            )


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Context that turns an error of the system into BadFolder when a file cannot be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            reason = (
                "too many files are open, and every open index holds some; close indexes that are"
                " no longer needed, or raise the limit (`ulimit -n`)"
            )
        else:
            reason = f"{error.strerror or error}; check the disk and the permissions of the file"
        raise BadFolder(f"{path} cannot be read: {reason}") from error


def _missing(path: Path) -> BadFolder:
    return BadFolder(
        f"{path.parent} is incomplete: {path.name} is missing; build the index again with `nearfar"
        " index`"
    )


def belongs_to_index(name: str) -> bool:
    """Returns true for a file name that an index uses, or that a killed process left behind."""
    known_names = {MANIFEST, *FILES, *SPARSE_FILES}
    return name in known_names or _TOKEN_INDEX_FILES.fullmatch(name) is not None


def describe_files(folder: Path, names: Iterable[str] = FILES) -> dict[str, FileRecord]:
    """Returns a record of each of these files that exists."""
    present = [name for name in names if (folder / name).exists()]
    return {
        name: FileRecord(bytes=(folder / name).stat().st_size, sha256=_fingerprint(folder / name))
        for name in present
    }


def _fingerprint(path: Path) -> str:
    """Returns the SHA-256 of a file, or of a sample of a large one, so that an index opens
    quickly.
    """
    digest = hashlib.sha256()
    add_sample(digest, path)
    return digest.hexdigest()
