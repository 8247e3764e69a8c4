"""`Row` and `Rows`: training pairs, kept on disk in columns so that millions of them take little
memory.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from trainer.batch import identity
from trainer.data.readers.report import ReadReport

_SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("positive", pa.string()),
        ("negatives", pa.list_(pa.string())),
        ("labels", pa.list_(pa.float64())),
        ("source", pa.string()),
        ("query_identity", pa.int64()),
        ("positive_identity", pa.int64()),
    ]
)
_FLUSH_ROWS, _FLUSH_CHARACTERS = 4096, 8_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One training pair with its hard negatives. `labels` holds one score a candidate, the positive
    first; a scored pair has exactly one.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    labels: tuple[float, ...] | None = None
    source: str = ""


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Row]):
    """A list of rows that lives in a memory-mapped file; a row is made when it is asked for.

    >>> rows = Rows.of([Row("a", "b"), Row("c", "d", source="x.jsonl:2")])
    >>> len(rows), rows[1].source
    (2, 'x.jsonl:2')
    """

    table: pa.Table
    report: ReadReport = field(default_factory=lambda: ReadReport("memory"))
    chosen: Int[np.ndarray, " row"] | None = None
    """Row numbers of the table, in order; None: all of them."""

    @classmethod
    def of(cls, rows: Iterable[Row], report: ReadReport | None = None) -> "Rows":
        """Rows from any iterable, written to a temporary file that vanishes with them."""
        writer = RowWriter()
        for row in rows:
            writer.add(row)
        return cls(
            writer.finish(),
            report or ReadReport("memory", rows_read=writer.count, rows_kept=writer.count),
        )

    def __len__(self) -> int:
        return self.table.num_rows if self.chosen is None else len(self.chosen)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> "Rows": ...
    def __getitem__(self, at: int | slice) -> "Row | Rows":
        if isinstance(at, slice):
            return self.select(np.arange(len(self))[at])
        if not -len(self) <= at < len(self):
            raise IndexError(f"row {at} of {len(self)}")
        position = at % len(self)
        return _row(self.table, position if self.chosen is None else int(self.chosen[position]))

    def __iter__(self) -> Iterator[Row]:
        return (self[at] for at in range(len(self)))

    def select(self, positions: Int[np.ndarray, " row"]) -> "Rows":
        """The rows at these positions, in that order, sharing the file."""
        return replace(
            self,
            chosen=positions.astype(np.int64) if self.chosen is None else self.chosen[positions],
        )

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns of the rows, some thousand rows at a time, in the order in which they stand
        in the file.
        """
        wanted = None
        if self.chosen is not None:
            wanted = np.zeros(self.table.num_rows, bool)
            wanted[self.chosen] = True
        start = 0
        for batch in self.table.select(list(columns)).to_batches():
            yield (
                batch
                if wanted is None
                else batch.filter(pa.array(wanted[start : start + len(batch)]))
            )
            start += len(batch)

    def identities(self, role: str) -> Int[np.ndarray, " row"]:
        """Identity (`trainer.batch.identity`) of each row's "query" or "positive"."""
        values = self.table.column(f"{role}_identity").to_numpy()
        return values if self.chosen is None else values[self.chosen]

    def first_unscored(self) -> Row | None:
        """The first row with a candidate that has no score; None where there is none."""
        scores, negatives = (
            pc.fill_null(pc.list_value_length(self.table.column(name)), 0).to_numpy()
            for name in ("labels", "negatives")
        )
        lacking = scores != 1 + negatives
        found = np.flatnonzero(lacking if self.chosen is None else lacking[self.chosen])
        return self[int(found[0])] if found.size else None


class RowWriter:
    """Appends rows to a temporary Arrow file, a few thousand at a time."""

    def __init__(self) -> None:
        handle, path = tempfile.mkstemp(prefix="nearfar-rows-", suffix=".arrow")
        os.close(handle)
        self._path = Path(path)
        self._file = pa.ipc.new_file(path, _SCHEMA)
        self._pending: list[tuple[Any, ...]] = []
        self._characters = 0
        self.count = 0

    def add(self, row: Row) -> None:
        """Takes one more row."""
        self._pending.append(
            (
                row.query,
                row.positive,
                row.negatives,
                row.labels,
                row.source,
                identity(row.query),
                identity(row.positive),
            )
        )
        self._characters += len(row.query) + len(row.positive) + sum(map(len, row.negatives))
        self.count += 1
        if len(self._pending) >= _FLUSH_ROWS or self._characters >= _FLUSH_CHARACTERS:
            self._flush()

    def finish(self) -> pa.Table:
        """All rows, memory-mapped; the file has no name any more and goes with the table."""
        self._flush()
        self._file.close()
        try:
            return pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()
        finally:
            self._path.unlink()

    def discard(self) -> None:
        """Gives the file up, after an error."""
        self._file.close()
        self._path.unlink()

    def _flush(self) -> None:
        if self._pending:
            columns = list(zip(*self._pending, strict=True))
            arrays = [
                pa.array(column, type=kind.type)
                for column, kind in zip(columns, _SCHEMA, strict=True)
            ]
            self._file.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
            self._pending, self._characters = [], 0


def duplicate_pairs(table: pa.Table) -> int:
    """Rows of a table whose query and positive an earlier row has too; sorts in place, 9 bytes a
    row.
    """
    pairs = np.empty(table.num_rows, np.uint64)
    end = 0
    for batch in table.select(["query_identity", "positive_identity"]).to_batches():
        queries, positives = (column.to_numpy().view(np.uint64) for column in batch.columns)
        start, end = end, end + len(queries)
        pairs[start:end] = queries * np.uint64(0x9E3779B97F4A7C15) + positives
    pairs.sort()
    return int(np.count_nonzero(pairs[1:] == pairs[:-1]))


class KnownPositives(Mapping[int, frozenset[int]]):
    """Query identity to the identities of all its positives, in two sorted arrays: 16 bytes a
    pair.
    """

    def __init__(
        self, queries: Int[np.ndarray, " pair"], positives: Int[np.ndarray, " pair"]
    ) -> None:
        order = np.argsort(queries, kind="stable")
        self._queries, self._positives = queries[order], positives[order]

    def __getitem__(self, query: int) -> frozenset[int]:
        first, last = (
            int(np.searchsorted(self._queries, query, side)) for side in ("left", "right")
        )
        if first == last:
            raise KeyError(query)
        return frozenset(self._positives[first:last].tolist())

    def __iter__(self) -> Iterator[int]:
        return iter(np.unique(self._queries).tolist())

    def sizes(self) -> Int[np.ndarray, " query"]:
        """How many distinct positives each query has."""
        pairs = np.unique(np.stack([self._queries, self._positives]), axis=1)
        return np.unique(pairs[0], return_counts=True)[1]

    def __len__(self) -> int:
        return len(np.unique(self._queries))


def known_positives(rows: Sequence[Row]) -> KnownPositives:
    """Which documents each query is known to have as positives, over all rows.

    >>> known = known_positives([Row("q", "a"), Row("q", "b"), Row("r", "a")])
    >>> known[identity("q")] == {identity("a"), identity("b")}
    True
    """
    if isinstance(rows, Rows):
        return KnownPositives(rows.identities("query"), rows.identities("positive"))
    pairs = np.array(
        [(identity(row.query), identity(row.positive)) for row in rows], dtype=np.int64
    ).reshape(-1, 2)
    return KnownPositives(pairs[:, 0], pairs[:, 1])


def _row(table: pa.Table, at: int) -> Row:
    query, positive, negatives, labels, source = (
        table.column(name)[at].as_py() for name in _SCHEMA.names[:5]
    )
    return Row(query, positive, tuple(negatives), None if labels is None else tuple(labels), source)
