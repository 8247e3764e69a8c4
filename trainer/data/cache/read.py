"""Reads training rows, held-out rows and retrieval sets through the cache.

The key of an entry has the SHA-256 of all bytes of the source, which is computed at each start.
Sizes and times of files are not used: a file with other content and a restored time would give
stale rows.
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.data.cache.entry import Build, Entry, EntryKey
from trainer.data.cache.folder import find_or_build
from trainer.data.cache.stored_set import load_corpus, load_set, write_ids, write_set
from trainer.data.fingerprint import SourceDigests
from trainer.data.readers.beir import is_beir_folder
from trainer.data.readers.corpus import read_document_ids
from trainer.data.readers.corpus_texts import CorpusTexts
from trainer.data.readers.read import Split, has_known_layout, write_rows
from trainer.data.readers.report import ReadReport
from trainer.data.retrieval_set import (
    RetrievalSet,
    read_set_and_report,
    retrieval_set_from_rows,
    select_queries,
    set_name,
)
from trainer.data.rows import KnownPositives, Rows, known_positives
from trainer.data.splits import HeldOut, choose_held_out, divide, hold_out

_ROWS, _PARTS, _POSITIVES = "rows.arrow", "parts.arrow", "positives.arrow"
_NO_PART, _TRAIN, _VALIDATION = 0, 1, 2


class CachedReader:
    """Reads the data sources of one run. The digest of each source is computed once."""

    def __init__(self, max_bad_rows_ratio: float, has_images: bool = False) -> None:
        self.digests = SourceDigests()
        self.reports: list[ReadReport] = []
        """The report of each source that was read, in order."""
        self._max_bad_rows_ratio = max_bad_rows_ratio
        self._has_images = has_images

    def rows(
        self,
        source: str,
        columns: Mapping[str, str],
        split: Split = "train",
        negatives_per_query: int | None = None,
    ) -> Rows:
        """Returns the rows of a source (see `trainer.data.readers.read.read_rows`).

        Raises BadData or TooManyBadRows.
        """

        def build(folder: Path) -> Mapping[str, Any]:
            ratio = self._max_bad_rows_ratio
            path = folder / _ROWS
            return write_rows(
                path,
                source,
                columns,
                split,
                ratio,
                negatives_per_query,
                has_images=self._has_images,
            ).facts()

        options = {"split": split, "columns": columns, "negatives_per_query": negatives_per_query}
        entry = self._read(source, {"kind": "rows", **options, **self._images_of(source)}, build)
        return Rows(entry.tables[_ROWS], self.reports[-1], sha256=tuple(entry.sha256.values()))

    def retrieval_set(
        self,
        source: str,
        columns: Mapping[str, str],
        split: Split,
        max_queries: int | None = None,
        corpus: CorpusTexts | None = None,
    ) -> RetrievalSet:
        """Returns the retrieval set of a source (see `read_retrieval_set`).

        A BEIR folder does not use `corpus`. Raises BadData or TooManyBadRows.
        """
        if corpus is not None and not is_beir_folder(Path(source)):
            rows = self.rows(source, columns, split)
            retrieval_set = retrieval_set_from_rows(rows, set_name(source, split), corpus)
        else:
            retrieval_set = self._stored_set(source, columns, split)
        return retrieval_set if max_queries is None else select_queries(retrieval_set, max_queries)

    def corpus_texts(self, corpus: str) -> CorpusTexts:
        """Returns the distinct texts of a corpus (see `read_document_ids`), which stay on disk.

        Raises BadData or TooManyBadRows.
        """

        def build(folder: Path) -> Mapping[str, Any]:
            report = ReadReport(corpus)
            write_ids(folder, read_document_ids(corpus, report, self._max_bad_rows_ratio))
            return report.facts()

        return load_corpus(self._read(corpus, {"kind": "corpus"}, build).tables)

    def _stored_set(self, source: str, columns: Mapping[str, str], split: Split) -> RetrievalSet:
        def build(folder: Path) -> Mapping[str, Any]:
            ratio = self._max_bad_rows_ratio
            retrieval_set, report = read_set_and_report(
                source, split, columns, ratio, has_images=self._has_images
            )
            write_set(folder, retrieval_set)
            names = {"name": retrieval_set.name, "limitation": retrieval_set.limitation}
            return report.facts() | names

        options = {"split": split, "columns": columns}
        key = {"kind": "retrieval set", **options, **self._images_of(source)}
        entry = self._read(source, key, build)
        facts = entry.facts
        return load_set(entry.tables, facts["name"], facts["limitation"], self._has_images)

    def _images_of(self, source: str) -> dict[str, str]:
        """Returns what an entry with images depends on too: paths in it begin with the folder."""
        return {"folder of images": str(Path(source).parent)} if self._has_images else {}

    def _read(self, source: str, options: Mapping[str, Any], build: Build) -> Entry:
        """Returns the entry of a source. Adds its report to `reports`."""
        if (sha256 := self._digest(source)) is None:
            entry = find_or_build(None, build, source)
        else:
            key = {"source": Path(source).name, "sha256": sha256, **options, "code": _code()}

            def build_from_unchanged(folder: Path) -> Mapping[str, Any]:
                facts = build(folder)
                self.digests.check_unchanged(source)
                return facts

            entry = find_or_build(key, build_from_unchanged, source)
        report = ReadReport.from_facts(source, entry.facts)
        report.check_budget(self._max_bad_rows_ratio)
        self.reports.append(report)
        return entry

    def _digest(self, source: str) -> str | None:
        """Returns the SHA-256 of a source. It is None for a hub data set, and for a source that
        cannot be read: reading it raises the error.
        """
        try:
            path = Path(source)
            return self.digests.digest(source) if path.is_file() or has_known_layout(path) else None
        except OSError:
            return None


def cached_hold_out(rows: Rows, ratio: float, max_queries: int, seed: int) -> tuple[Rows, Rows]:
    """Returns training rows and validation rows (see `trainer.data.splits.hold_out`)."""
    if not rows.sha256 or rows.row_numbers is not None:
        return hold_out(rows, ratio, max_queries, seed)

    def build(folder: Path) -> Mapping[str, Any]:
        held_out = choose_held_out(rows, ratio, max_queries, seed)
        parts = np.full(len(rows), _NO_PART, np.int8)
        parts[held_out.train], parts[held_out.validation] = _TRAIN, _VALIDATION
        _write_columns(folder / _PARTS, {"part": parts})
        return {}

    options = {"ratio": ratio, "max_queries": max_queries, "seed": seed}
    key: EntryKey = {"kind": "held out", "rows": rows.sha256, **options, "code": _code()}
    entry = find_or_build(key, build, rows.report.source)
    parts = entry.tables[_PARTS].column("part").chunk(0).to_numpy()
    train, validation = (np.flatnonzero(parts == part) for part in (_TRAIN, _VALIDATION))
    return divide(rows, HeldOut(train, validation, int((parts == _NO_PART).sum())))


def cached_known_positives(rows: Rows) -> KnownPositives:
    """Returns the known positives of each query (see `trainer.data.rows.known_positives`)."""
    if not rows.sha256:
        return known_positives(rows)

    def build(folder: Path) -> Mapping[str, Any]:
        positives = known_positives(rows)
        _write_columns(
            folder / _POSITIVES, {"query": positives.queries, "positive": positives.positives}
        )
        return {}

    numbers = rows.row_numbers
    selection = None if numbers is None else hashlib.sha256(numbers.data).hexdigest()
    options = {"rows": rows.sha256, "selection": selection}
    key: EntryKey = {"kind": "known positives", **options, "code": _code()}
    table = find_or_build(key, build, rows.report.source).tables[_POSITIVES]
    return KnownPositives(*(column.chunk(0).to_numpy() for column in table.columns))


def _write_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes an Arrow file in which each column is one array, so that it is mapped without a
    copy.
    """
    table = pa.table(dict(columns))
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


@cache
def _code() -> str:
    """Returns a digest of the code that reads data, and the version of the Unicode tables."""
    digest = hashlib.sha256(unicodedata.unidata_version.encode())
    package = Path(__file__).parents[2]
    for path in [package / "batch.py", *sorted((package / "data").rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
