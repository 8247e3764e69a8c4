"""`manifest.json` of an index of token vectors, and how it is exchanged: whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from trainer.errors import BadFolder
from trainer.retrieval.indexes.manifest import (
    CODEC_FILES,
    MANIFEST,
    TOKEN_KINDS,
    AnyManifest,
    belongs_to_index,
    describe_files,
    parse_manifest,
    read_content,
)
from trainer.retrieval.indexes.place import cannot_write
from trainer.storage.atomic import flush_to_disk, write_text
from trainer.storage.locks import exclusive

TokenIndexKind = Literal["exact", "compressed"]
Bits = Literal[1, 2, 4]
_MOST_EFFORT = 1 << 32
PARTS = {"exact": ("vectors",), "compressed": ("ids", "codes", "means")}
"""The arrays of a segment: a row a token; in means, a row a document."""


class Segment(BaseModel):
    """Documents that were added together. Its files carry its number and never change; what was
    deleted since is in a file of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    number: PositiveInt
    documents: PositiveInt
    tokens: PositiveInt
    """Vectors of all its documents, after pooling."""
    deleted: NonNegativeInt = 0
    """How many of its documents are not there any more."""
    deleted_in: PositiveInt | None = None
    """The number of the change that deleted last."""

    @model_validator(mode="after")
    def _deleted_fits(self) -> Self:
        if self.deleted > self.documents or (self.deleted == 0) != (self.deleted_in is None):
            raise ValueError(
                f"segment {self.number} has {self.documents} documents, {self.deleted} of them"
                f" deleted by change {self.deleted_in}"
            )
        return self

    def files(self, kind: TokenIndexKind) -> tuple[str, ...]:
        """The names of its files."""
        names = [
            "documents-{}.jsonl",
            "offsets-{}.npy",
            "lengths-{}.npy",
            *(f"{part}-{{}}.npy" for part in PARTS[kind]),
        ]
        return (
            *(name.format(self.number) for name in names),
            *([] if self.deleted_in is None else [self.deleted_file]),
        )

    @property
    def deleted_file(self) -> str:
        """The name of the file with the rows that were deleted."""
        return f"deleted-{self.number}-{self.deleted_in}.npy"


class TokenManifest(AnyManifest):
    """What an index of token vectors says about itself."""

    kind: TokenIndexKind
    dimensions: PositiveInt
    bits: Bits | None
    """Of each number of a compressed vector, everything counted."""
    pool_factor: PositiveInt
    changes: PositiveInt
    """How often the index was written or changed: the next change takes the next number."""
    approximate: dict[str, float]
    """Probes and candidates of a search, the share of the ten best that they find, measured when
    there were so many `tokens`, and the mean squared error of the first documents' vectors; empty
    for exact.
    """
    segments: tuple[Segment, ...] = Field(strict=False, min_length=1)

    @property
    def count(self) -> int:
        """Documents that are there."""
        return sum(segment.documents - segment.deleted for segment in self.segments)

    @property
    def tokens(self) -> int:
        """Vectors on disk, those of deleted documents included."""
        return sum(segment.tokens for segment in self.segments)

    @property
    def search_bytes(self) -> int:
        """What a search needs beside the texts of the documents."""
        return sum(
            record.bytes for name, record in self.files.items() if not name.startswith("documents")
        )

    @property
    def share_of_float16(self) -> float:
        """`search_bytes` as a share of the vectors in float16."""
        return self.search_bytes / (2 * self.dimensions * self.tokens)

    @property
    def summary(self) -> str:
        """What the index holds, in one line."""
        share = self.share_of_float16  # above 1 for a few documents: the centroids have one size
        ratio = f"1/{1 / share:.1f} of" if share <= 1 else f"{share:,.1f} times"
        return (
            f"{self.count:,} documents, {self.kind}, {self.tokens:,} vectors of {self.dimensions}"
            f" dimensions, {self.search_bytes / 1e6:,.1f} MB, {ratio} float16"
        )

    def needed(self) -> set[str]:
        """The names of all files but the manifest."""
        shared = {"probe.npy", *(CODEC_FILES if self.kind == "compressed" else ())}
        return shared.union(*(segment.files(self.kind) for segment in self.segments))

    def described(self, folder: Path) -> Self:
        """The same with a record of every file; those already on record are not read again, for
        they never change.
        """
        wanted = self.needed() - self.files.keys()
        new = describe_files(folder, sorted(wanted))
        if missing := wanted - new.keys():
            raise BadFolder(f"{folder / min(missing)} is gone; nothing was changed")
        kept = {name: record for name, record in self.files.items() if name in self.needed()}
        return self.model_copy(update={"files": kept | new})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest in `folder`. Raises BadFolder when there is none, or it is damaged, or of
        one vector a document.
        """
        content = read_content(folder)
        if content.get("kind") not in TOKEN_KINDS:
            raise BadFolder(
                f"{folder} is an index of one vector a document, kind {content.get('kind')!r}; not"
                " of token vectors"
            )
        manifest = parse_manifest(cls, content, folder)
        manifest._check_effort(folder)
        numbers = [segment.number for segment in manifest.segments]
        if (
            set(manifest.files) != manifest.needed()
            or len(set(numbers)) < len(numbers)
            or (manifest.kind == "compressed") != (manifest.bits is not None)
        ):
            raise BadFolder(
                f"{folder / MANIFEST} lists other files than an index of kind {manifest.kind} has;"
                " build the index again with `nearfar index`"
            )
        return manifest

    def _check_effort(self, folder: Path) -> None:
        for setting in ("probes", "candidates") if self.kind == "compressed" else ():
            value = self.approximate.get(setting)
            if value is None or not (1 <= value <= _MOST_EFFORT and value.is_integer()):
                said = "does not say" if value is None else f"says {value:g} for"
                raise BadFolder(
                    f"{folder / MANIFEST} is damaged: it {said} {setting}, a whole number from 1 to"
                    f" {_MOST_EFFORT}; build the index again with `nearfar index`"
                )

    def write(self, folder: Path) -> None:
        """Makes this the manifest of `folder`: all files are on disk before, and the change is
        whole or not at all, whenever the process ends.
        """
        for name in self.files:
            flush_to_disk(folder / name)
        write_text(folder / MANIFEST, self.to_sealed_json())


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[TokenManifest]:
    """The manifest of an index that this process alone may change meanwhile; afterwards, files that
    no manifest needs are removed.

    A reader that has the index open keeps what it had. Raises BadFolder while another process
    changes the index, also on another thread.
    """
    TokenManifest.read(folder)
    with exclusive(folder), cannot_write(folder):
        try:
            yield TokenManifest.read(folder)
        finally:
            needed = TokenManifest.read(folder).needed() | {MANIFEST}
            for path in folder.iterdir():
                if path.name not in needed and belongs_to_index(path.name):
                    path.unlink()
