"""Images to search, read one after another from a folder or a table, in bounded memory."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from trainer.batch import identity
from trainer.data.readers.columns import text_problem
from trainer.data.readers.corpus import Document, record_id
from trainer.data.readers.image_folder import corpus_file
from trainer.data.readers.image_rows import IMAGE_ROLES, checked_reference
from trainer.data.readers.json_lines import Record
from trainer.data.readers.read import layout_of
from trainer.data.readers.report import BadRow, ReadReport, type_name
from trainer.errors import BadData
from trainer.images.decode import IMAGE_SUFFIXES
from trainer.storage.near_paths import missing_path


def read_image_corpus(
    path: Path, report: ReadReport, max_bad_rows_ratio: float = 0.001, id_prefix: str = ""
) -> Iterator[Document]:
    """Yields the images of a folder or file, each decoded once to see that it can be.

    A folder has a corpus (`corpus.parquet` or `corpus.jsonl`), or is searched for image files. A
    file is JSON Lines, CSV, TSV, Parquet or Arrow with a column `image` of paths or bytes. Ids are
    `_id` or `id`, else the path, else `id_prefix` and the number of the row. `title`, and `caption`
    or `text`, stay with the image. Repeated ids are left out; `report` counts them.

    Raises BadData for a source without images, and TooManyBadRows at the end when too many images
    could not be used.
    """
    folder, records = _records(path, report)
    folder, seen_identities = folder.absolute(), set[int]()
    for record in records:
        report.rows_read += 1
        if isinstance(record, BadRow):
            report.set_aside(record)
            continue
        values = {name.strip().casefold(): value for name, value in record.values.items()}
        image = _first_value(values, IMAGE_ROLES["image"])
        document = _describe(values, image, record.source, id_prefix)
        if isinstance(document, BadRow):
            report.set_aside(document)
        elif identity(document.id) in seen_identities:
            report.duplicate_ids += 1
        elif reference := checked_reference(image, folder, record.source, report):
            seen_identities.add(identity(document.id))
            report.rows_kept += 1
            text = report.truncate(document.text, record.source)
            yield replace(document, text=text, image=reference)
    report.check_budget(max_bad_rows_ratio, is_corpus=True)
    if not seen_identities:
        raise BadData(
            f"{path} has no image that can be read; give a folder of image files, or a table with a"
            " column `image` of paths or bytes"
        )


def _records(path: Path, report: ReadReport) -> tuple[Path, Iterator[Record | BadRow]]:
    """Returns the folder to which paths are relative, and the records."""
    if path.is_dir():
        corpus = corpus_file(path)
        if corpus is None:
            return path, _image_files(path, report)
        path = corpus
    if not path.exists():
        raise BadData(missing_path(path))
    layout = layout_of(path)
    if layout is None:
        raise BadData(
            f"{path} is no collection of images; give a folder of image files, a folder with"
            " corpus.parquet, or a JSON Lines, CSV, TSV, Parquet or Arrow file with a column"
            " `image`"
        )
    return path.parent, layout.read(path)


def _image_files(folder: Path, report: ReadReport) -> Iterator[Record]:
    """Yields a record per image file in a folder and its subfolders, by name; links to folders are
    not followed.
    """
    for place, folders, names in os.walk(folder, onerror=_cannot_list):
        report.other_files += len(folders)
        folders[:] = sorted(
            name for name in folders if name[0] != "." and not Path(place, name).is_symlink()
        )
        report.other_files -= len(folders)
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith(IMAGE_SUFFIXES):
                report.other_files += 1
                continue
            path = Path(place, name).relative_to(folder).as_posix()
            yield Record(path, {"image": path})


def _cannot_list(error: OSError) -> NoReturn:
    raise BadData(
        f"{error.filename} cannot be read: {error.strerror}; check the permissions of the folder"
    ) from error


def _describe(values: dict[str, Any], image: Any, source: str, prefix: str) -> Document | BadRow:
    """Returns the document of a record without its image, or what is wrong with it."""
    if image is None:
        names = ", ".join(map(repr, list(values)[:10]))
        return BadRow(source, "the image is missing", f"its fields: {names}")
    captions = _first_value(values, [name for name in IMAGE_ROLES["caption"] if name != "title"])
    fields = {
        "id": record_id(values, source, prefix),
        "title": values.get("title") or "",
        "caption": captions if isinstance(captions, list) else [captions or ""],
    }
    if "_id" not in values and "id" not in values and (path := _path(image)) is not None:
        fields["id"] = path
    texts = [fields["id"], fields["title"], *fields["caption"]]
    for value in texts:
        if not isinstance(value, str):
            reason = f"the id, title or caption is {type_name(value)}, expected a text"
            return BadRow(source, reason)
    if problem := next(filter(None, map(text_problem, texts)), ""):
        return BadRow(source, f"{problem} in the id, title or caption")
    return Document(fields["id"], fields["title"], " / ".join(filter(None, fields["caption"])))


def _path(image: Any) -> str | None:
    """Returns the path of an image of which a table does not hold the bytes."""
    if isinstance(image, Mapping):
        image = None if image.get("bytes") else image.get("path")
    return image if isinstance(image, str) and image else None


def _first_value(values: Mapping[str, Any], names: list[str] | tuple[str, ...]) -> Any:
    return next((values[name] for name in names if values.get(name) not in (None, "")), None)
