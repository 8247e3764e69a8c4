"""Reads folders of judged images: corpus (id, image), queries.jsonl and qrels/<split>.tsv, as BEIR
has them for texts, and a training file of pairs. Queries that are images are in queries.parquet,
also in a BEIR folder.
"""

from collections.abc import Iterable, Iterator, Set
from itertools import chain
from pathlib import Path

from trainer.data.readers.beir import (
    Judgement,
    folder_member,
    judgements_with_texts,
    read_id,
    read_qrels,
    read_texts,
)
from trainer.data.readers.image_rows import checked_reference
from trainer.data.readers.json_lines import Record, read_json_lines
from trainer.data.readers.report import BadRow, ReadReport
from trainer.data.readers.table import read_columnar
from trainer.data.rows import Row
from trainer.progress import count_items

_CORPUS = "corpus.parquet", "corpus.jsonl"
_TRAINING = "train.parquet", "train.jsonl"
_IMAGE_QUERIES = "queries.parquet"


def is_image_folder(folder: Path) -> bool:
    """Returns True for a folder with a corpus and judgements."""
    return (folder / "qrels").is_dir() and corpus_file(folder) is not None


def corpus_file(folder: Path) -> Path | None:
    """Returns the file of all images, if the folder has one."""
    return _file(folder, _CORPUS)


def training_file(folder: Path) -> Path | None:
    """Returns the file of training pairs, if the folder has one."""
    return _file(folder, _TRAINING)


def read_image_queries(folder: Path, report: ReadReport, ids: Set[str]) -> dict[str, str]:
    """Returns the references of the queries in `queries.parquet` by id, of these ids only; "" for
    an image that cannot be used. Without the file, or its column `image`, there are none.
    """
    path = folder_member(folder, _IMAGE_QUERIES)
    if path is None:
        return {}
    records = read_columnar(path)
    first_record = next(records, None)
    if first_record is None:
        report.notes.append(f"{_IMAGE_QUERIES} is empty")
        return {}
    if "image" not in first_record.values:
        return {}  # the texts of queries.jsonl in another format
    return _read_images(path, chain([first_record], records), ids, report)


def judgements_in_words(folder: Path, split: str, report: ReadReport) -> list[Judgement]:
    """Returns the judgements of a split without those of queries that are images, which a note of
    the report counts.
    """
    judgements = read_qrels(folder, split, report)
    if images := read_image_queries(folder, report, {item.query for item in judgements}):
        report.notes.append(f"{len(images):,} queries are images, left out of the pairs")
    return [item for item in judgements if item.query not in images]


def judged_images(
    folder: Path, judgements: list[Judgement], report: ReadReport, whole_corpus: bool = False
) -> tuple[list[Judgement], dict[str, str], dict[str, str]]:
    """Returns the judgements that have both sides, the captions by id, and the references of images
    by id: those that are judged, or all.
    """
    report.layout = "folder of judged images"
    captions = read_texts(folder, "queries.jsonl", report, {item.query for item in judgements})
    bad_before = report.bad_count
    ids = None if whole_corpus else {item.document for item in judgements}
    path = corpus_file(folder)
    assert path is not None
    images = {
        key: value
        for key, value in _read_images(path, _records(path), ids, report).items()
        if value
    }
    bad_lines = {"corpus.jsonl": report.bad_count - bad_before}
    complete = judgements_with_texts(judgements, captions, images, bad_lines, report)
    return complete, captions, images


def image_folder_rows(folder: Path, split: str, report: ReadReport) -> Iterator[Row]:
    """Yields one row per positive judgement of a split."""
    judgements = judgements_in_words(folder, split, report)
    judgements, captions, images = judged_images(folder, judgements, report)
    for item in judgements:
        if item.score > 0 and captions[item.query]:
            yield Row(captions[item.query], images[item.document], source=item.source)


def _read_images(
    path: Path, records: Iterable[Record | BadRow], ids: Set[str] | None, report: ReadReport
) -> dict[str, str]:
    """Returns the references of the images of the table at `path` by id, of all or of these ids
    only; "" for an image that cannot be used.
    """
    images: dict[str, str] = {}
    for record in count_items(records, f"reading {path}", "images"):
        report.rows_read += 1
        if isinstance(record, BadRow):
            report.set_aside(record)
            continue
        if (key := read_id(record, report)) is None:
            continue
        if images.get(key):
            report.duplicate_ids += 1
        elif ids is None or key in ids:
            value = record.values.get("image")
            images[key] = checked_reference(value, path.parent, record.source, report) or ""
    return images


def _records(path: Path) -> Iterator[Record | BadRow]:
    return read_columnar(path) if path.suffix == ".parquet" else read_json_lines(path)


def _file(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
