"""Reads pairs of a caption and an image: the query is the caption, the positive the image."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.readers.columns import is_blank, text_problem
from trainer.data.readers.json_lines import Record
from trainer.data.readers.report import BadRow, ReadReport, type_name
from trainer.data.rows import Row
from trainer.errors import BadData
from trainer.images.decode import BadImage, decode
from trainer.images.reference import read_image_bytes, reference_to_bytes, reference_to_file

IMAGE_ROLES: dict[str, tuple[str, ...]] = {
    "caption": ("caption", "captions", "text", "query", "title"),
    "image": ("image", "image_path", "file_name", "path"),
}
"""Role to the column names that are recognised, the preferred ones first, in any case."""


@dataclass(frozen=True)
class ImageColumns:
    """The names of the columns that have each role."""

    caption: str
    image: str

    def by_role(self) -> dict[str, tuple[str, ...]]:
        """Returns the column names of each role."""
        return {"caption": (self.caption,), "image": (self.image,)}


def assign_image_roles(
    names: Iterable[str], columns_by_role: Mapping[str, str], source: str
) -> ImageColumns:
    """Returns the columns of caption and image. `columns_by_role` (of `data.columns`) takes
    precedence over the recognised names. Raises BadData.

    >>> assign_image_roles(["Image", "text", "id"], {}, "x.csv")
    ImageColumns(caption='text', image='Image')
    """
    columns = list(dict.fromkeys(names))
    listing = ", ".join(map(repr, columns[:20])) or "none"
    plain_names = {name.strip().casefold(): name for name in reversed(columns)}
    if strange := sorted(columns_by_role.keys() - IMAGE_ROLES.keys()):
        raise BadData(
            f"there is no role {strange[0]!r} for a column of an image set; roles are"
            f" {', '.join(IMAGE_ROLES)}."
        )
    assigned_columns = {}
    for role, role_names in IMAGE_ROLES.items():
        name = columns_by_role.get(role) or next(
            (plain_names[name] for name in role_names if name in plain_names), None
        )
        if name not in columns:
            raise BadData(
                f"{source} has no column {name or ''!r} for the {role}; it has {listing}. Name it"
                f" with data.columns={{{role}: NAME}} (recognised: {', '.join(role_names)})."
            )
        assigned_columns[role] = name
    return ImageColumns(**assigned_columns)


class ImageRowMaker:
    """Turns records into rows, and counts in the report what is dropped.

    Each image is decoded once, so that a row of a damaged one is set aside. `folder` is that of the
    data file: paths are relative to it.
    """

    def __init__(self, columns: ImageColumns, report: ReadReport, folder: Path) -> None:
        self._columns, self._report, self._folder = columns, report, folder

    def rows(self, record: Record) -> Iterator[Row]:
        """Yields one row per caption of a record; none for a bad one."""
        captions = record.values.get(self._columns.caption)
        texts = captions if isinstance(captions, list) else [captions]
        if wrong := next((text for text in texts if not isinstance(text, str | None)), None):
            reason = f"the caption is {type_name(wrong)}, expected a text"
            return self._report.set_aside(BadRow(record.source, reason))
        if problem := next(filter(None, (text_problem(text or "") for text in texts)), ""):
            return self._report.set_aside(BadRow(record.source, f"{problem} in the caption"))
        captions = [text for text in dict.fromkeys(texts) if not is_blank(text)]
        if not captions:
            self._report.blank_rows_dropped += 1
            return None
        reference = checked_reference(
            record.values.get(self._columns.image), self._folder, record.source, self._report
        )
        if reference is not None:
            for caption in captions:
                text = self._report.truncate(caption, record.source)
                yield Row(text, reference, source=record.source)
        return None


def checked_reference(value: Any, folder: Path, source: str, report: ReadReport) -> str | None:
    """Returns the reference of an image, or None if it is bad: the report then has the reason.

    `value` is a path relative to `folder`, the bytes of a file, or a mapping with `bytes` or `path`
    as `datasets` writes it.
    """
    try:
        reference = _reference(value, folder)
        decode(read_image_bytes(reference))
    except BadImage as error:
        report.set_aside(BadRow(source, error.reason, error.detail))
        return None
    return reference


def _reference(value: Any, folder: Path) -> str:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return reference_to_bytes(value)
    if isinstance(value, str) and value:
        return reference_to_file(folder, value)
    raise BadImage("the image is missing" if not value else f"the image is {type_name(value)}")
