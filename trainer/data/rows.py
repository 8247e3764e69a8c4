"""`Row` and `Rows`: training pairs, stored on disk so that millions of them take little memory."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

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
    """One training pair with its hard negatives.

    `labels` has one score per candidate, the positive first. A scored pair has exactly one label.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    labels: tuple[float, ...] | None = None
    source: str = ""


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Row]):
    """A sequence of rows in a memory-mapped file; a `Row` is built when it is indexed.

    >>> rows = Rows.of([Row("a", "b"), Row("c", "d", source="x.jsonl:2")])
    >>> len(rows), rows[1].source
    (2, 'x.jsonl:2')
    """

    table: pa.Table
    report: ReadReport = field(default_factory=lambda: ReadReport("memory"))
    row_numbers: Int[np.ndarray, " row"] | None = None
    """The rows of the table that belong to this sequence, in order; None means all."""
    sha256: tuple[str, ...] = ()
    """The SHA-256 of each file that the table consists of; empty if they are not known."""

    @classmethod
    def of(cls, rows: Iterable[Row], report: ReadReport | None = None) -> "Rows":
        """Writes the rows of any iterable to a temporary file, which is deleted with them."""
        with tempfile.TemporaryDirectory(prefix="nearfar-rows-") as folder:
            path = Path(folder) / "rows.arrow"
            with RowWriter(path) as writer:
                for row in rows:
                    writer.add(row)
            table = map_table(path)
        return cls(
            table, report or ReadReport("memory", rows_read=writer.count, rows_kept=writer.count)
        )

    def __len__(self) -> int:
        return self.table.num_rows if self.row_numbers is None else len(self.row_numbers)

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
        if self.row_numbers is not None:
            position = int(self.row_numbers[position])
        return _row(self.table, position)

    def __iter__(self) -> Iterator[Row]:
        return (self[at] for at in range(len(self)))

    def select(self, positions: Int[np.ndarray, " row"]) -> "Rows":
        """Returns the rows at these positions, in this order. The file is shared."""
        if self.row_numbers is None:
            return replace(self, row_numbers=positions.astype(np.int64))
        return replace(self, row_numbers=self.row_numbers[positions])

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yields these columns of the rows, a few thousand rows at a time, in the order of the
        file.
        """
        is_selected = None
        if self.row_numbers is not None:
            is_selected = np.zeros(self.table.num_rows, bool)
            is_selected[self.row_numbers] = True
        start = 0
        for batch in self.table.select(list(columns)).to_batches():
            if is_selected is None:
                yield batch
            else:
                yield batch.filter(pa.array(is_selected[start : start + len(batch)]))
            start += len(batch)

    def texts(self, role: str) -> Iterator[str]:
        """Yields the "query" or "positive" of each row, in order, without building the rows."""
        if self.row_numbers is None:
            for batch in self.table.select([role]).to_batches():
                yield from batch.column(0).to_pylist()
        else:
            column = self.table.column(role)
            yield from (column[number].as_py() for number in self.row_numbers.tolist())

    def identities(self, role: str) -> Int[np.ndarray, " row"]:
        """Returns the identity (`trainer.batch.identity`) of each row's "query" or "positive"."""
        return self._select_values(self.table.column(f"{role}_identity").to_numpy())

    def first_unscored(self) -> Row | None:
        """Returns the first row with a candidate without a score, or None."""
        scores, negatives = (
            pc.fill_null(pc.list_value_length(self.table.column(name)), 0).to_numpy()
            for name in ("labels", "negatives")
        )
        positions = np.flatnonzero(self._select_values(scores != 1 + negatives))
        return self[int(positions[0])] if positions.size else None

    def _select_values(self, values: np.ndarray) -> np.ndarray:
        """Converts values per row of the table to values per row of this sequence."""
        return values if self.row_numbers is None else values[self.row_numbers]


class RowWriter:
    """Appends rows to an Arrow file, a few thousand at a time. It is a context manager that closes
    the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = pa.ipc.new_file(str(path), _SCHEMA)
        self._pending: list[tuple[Any, ...]] = []
        self._characters = 0
        self.count = 0

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._flush()
        self._file.close()

    def add(self, row: Row) -> None:
        """Appends one row."""
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

    def _flush(self) -> None:
        if self._pending:
            columns = list(zip(*self._pending, strict=True))
            arrays = [
                pa.array(column, type=entry.type)
                for column, entry in zip(columns, _SCHEMA, strict=True)
            ]
            self._file.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
            self._pending, self._characters = [], 0


def map_table(path: Path) -> pa.Table:
    """Returns the table of an Arrow file. It is memory-mapped, also if the file is unlinked."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def count_duplicate_pairs(table: pa.Table) -> int:
    """Counts the rows that repeat the query and positive of an earlier row (9 bytes of memory per
    row).
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
    """Query identity to identities of its positives, in two arrays sorted by query (16 bytes per
    pair).
    """

    def __init__(
        self, queries: Int[np.ndarray, " pair"], positives: Int[np.ndarray, " pair"]
    ) -> None:
        self.queries, self.positives = queries, positives

    def has_queries(self, queries: Int[np.ndarray, " query"]) -> Bool[np.ndarray, " query"]:
        """Returns True for each of these identities that is a query."""
        places = np.searchsorted(self.queries, queries).clip(max=len(self.queries) - 1)
        return self.queries[places] == queries

    def __getitem__(self, query: int) -> frozenset[int]:
        first, last = (
            int(np.searchsorted(self.queries, query, side)) for side in ("left", "right")
        )
        if first == last:
            raise KeyError(query)
        return frozenset(self.positives[first:last].tolist())

    def __iter__(self) -> Iterator[int]:
        return iter(np.unique(self.queries).tolist())

    def sizes(self) -> Int[np.ndarray, " query"]:
        """Returns the number of distinct positives of each query."""
        pairs = np.unique(np.stack([self.queries, self.positives]), axis=1)
        return np.unique(pairs[0], return_counts=True)[1]

    def __len__(self) -> int:
        return len(np.unique(self.queries))


def known_positives(rows: Sequence[Row]) -> KnownPositives:
    """Returns the known positives of each query, over all rows.

    >>> known = known_positives([Row("q", "a"), Row("q", "b"), Row("r", "a")])
    >>> known[identity("q")] == {identity("a"), identity("b")}
    True
    """
    if not isinstance(rows, Rows):
        rows = Rows.of(rows)
    queries = rows.identities("query")
    order = np.argsort(queries, kind="stable")
    return KnownPositives(queries[order], rows.identities("positive")[order])


def _row(table: pa.Table, at: int) -> Row:
    query, positive, negatives, labels, source = (
        table.column(name)[at].as_py() for name in _SCHEMA.names[:5]
    )
    return Row(query, positive, tuple(negatives), None if labels is None else tuple(labels), source)
