"""`manifest.json` of an index of token vectors, and how it is replaced."""

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
"""The arrays of a segment: one row per token; in means, one row per document."""


class Segment(BaseModel):
    """Documents that were added together.

    The names of its files contain its number, and the files never change. A separate file lists the
    deleted rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    number: PositiveInt
    documents: PositiveInt
    tokens: PositiveInt
    """The number of vectors of all its documents, after pooling."""
    deleted: NonNegativeInt = 0
    """The number of its deleted documents."""
    deleted_in: PositiveInt | None = None
    """The number of the last change that deleted documents."""

    @model_validator(mode="after")
    def _deleted_fits(self) -> Self:
        if self.deleted > self.documents or (self.deleted == 0) != (self.deleted_in is None):
            raise ValueError(
                f"segment {self.number} has {self.documents} documents, {self.deleted} of them"
                f" deleted by change {self.deleted_in}"
            )
        return self

    def files(self, kind: TokenIndexKind) -> tuple[str, ...]:
        """Returns the names of its files."""
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
        """The name of the file with the deleted rows."""
        return f"deleted-{self.number}-{self.deleted_in}.npy"


class TokenManifest(AnyManifest):
    """Context in which only this process may change an index; gives its manifest.

    At the end, files that the manifest does not need are removed. Readers that have the index open
    are not affected. Raises BadFolder while another process or thread changes the index.
    """

    kind: TokenIndexKind
    dimensions: PositiveInt
    bits: Bits | None
    """Bits per component of a compressed vector, overhead included."""
    pool_factor: PositiveInt
    changes: PositiveInt
    """The number of changes so far; the next change has the next number."""
    approximate: dict[str, float]
    """Probes and candidates of a search, the share of the ten best that it finds, the number of
    tokens when this was measured, and the mean squared error of the first documents. Empty for
    exact.
    """
    segments: tuple[Segment, ...] = Field(strict=False, min_length=1)

    @property
    def count(self) -> int:
        """The number of documents that are not deleted."""
        return sum(segment.documents - segment.deleted for segment in self.segments)

    @property
    def tokens(self) -> int:
        """The number of vectors on disk, including those of deleted documents."""
        return sum(segment.tokens for segment in self.segments)

    @property
    def search_bytes(self) -> int:
        """The number of bytes that a search needs, without the texts of the documents."""
        return sum(
            record.bytes for name, record in self.files.items() if not name.startswith("documents")
        )

    @property
    def share_of_float16(self) -> float:
        """`search_bytes` as a share of the vectors in float16."""
        return self.search_bytes / (2 * self.dimensions * self.tokens)

    @property
    def summary(self) -> str:
        """One line that describes the content of the index."""
        share = self.share_of_float16  # above 1 for a few documents: the centroids have one size
        ratio = f"1/{1 / share:.1f} of" if share <= 1 else f"{share:,.1f} times"
        return (
            f"{self.count:,} documents, {self.kind}, {self.tokens:,} vectors of {self.dimensions}"
            f" dimensions, {self.search_bytes / 1e6:,.1f} MB, {ratio} float16"
        )

    def needed_files(self) -> set[str]:
        """Returns the names of all files except the manifest."""
        shared_files = {"probe.npy", *(CODEC_FILES if self.kind == "compressed" else ())}
        return shared_files.union(*(segment.files(self.kind) for segment in self.segments))

    def with_file_records(self, folder: Path) -> Self:
        """Returns the manifest with a record of every file.

        Files with a record are not read again, because they never change.
        """
        new_names = self.needed_files() - self.files.keys()
        new = describe_files(folder, sorted(new_names))
        if missing := new_names - new.keys():
            raise BadFolder(f"{folder / min(missing)} is missing; nothing was changed")
        old_records = {
            name: record for name, record in self.files.items() if name in self.needed_files()
        }
        return self.model_copy(update={"files": old_records | new})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the manifest in `folder`.

        Raises BadFolder when there is none, it is damaged, or it is of an index with one vector per
        document.
        """
        content = read_content(folder)
        if content.get("kind") not in TOKEN_KINDS:
            raise BadFolder(
                f"{folder} is an index with one vector per document (kind"
                f" {content.get('kind')!r}); give an index of token vectors"
            )
        manifest = parse_manifest(cls, content, folder)
        manifest._check_effort(folder)
        numbers = [segment.number for segment in manifest.segments]
        if (
            set(manifest.files) != manifest.needed_files()
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
                statement = "does not say" if value is None else f"says {value:g} for"
                raise BadFolder(
                    f"{folder / MANIFEST} is damaged: it {statement} {setting}, a whole number"
                    f" from 1 to {_MOST_EFFORT}; build the index again with `nearfar index`"
                )

    def write(self, folder: Path) -> None:
        """Writes this manifest to `folder`, after all files are on disk.

        So a change is complete or has no effect, whenever the process ends.
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
            needed_files = TokenManifest.read(folder).needed_files() | {MANIFEST}
            for path in folder.iterdir():
                if path.name not in needed_files and belongs_to_index(path.name):
                    path.unlink()
