"""Reads tables (CSV, TSV, Parquet and Arrow files) in batches of 1 024 rows."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.data.readers.json_lines import MAX_LINE_BYTES, NumberedLine, Record, read_lines
from trainer.data.readers.report import BadRow
from trainer.errors import BadData

_BATCH_ROWS = 1024


def read_delimited(path: Path, tabs: bool) -> Iterator[Record | BadRow]:
    """Yields every row of a CSV or TSV file whose first line names the columns.

    CSV: fields are quoted by `"`. The delimiter is the most frequent one of comma, semicolon and
    tab in the first line. TSV: the delimiter is a tab, and nothing is quoted. Raises BadData when
    the header is missing or unreadable, or names a column twice.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _GoodLines(path)
    header_text = next(lines, "").rstrip("\n")
    if unreadable := lines.pop_bad_rows():
        raise BadData(
            f"{unreadable[0]}, but the first line of {path} must name its columns. Save the file"
            " as UTF-8, e.g. `iconv -f latin1 -t utf-8`."
        )
    delimiter = "\t" if tabs else max(",;\t", key=header_text.count)
    dialect: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    header = next(csv.reader([header_text], delimiter=delimiter, **dialect), [])
    if not any(header) or len(set(header)) != len(header):
        raise BadData(
            f"{path} needs a first line that names its columns, each once; found"
            f" {header_text[:100]!r}."
        )
    reader = csv.reader(lines, delimiter=delimiter, **dialect)
    while True:
        start = lines.number + 1
        try:
            values = next(reader)
        except StopIteration:
            yield from lines.pop_bad_rows()
            return
        except csv.Error as error:
            yield from lines.pop_bad_rows()
            yield BadRow(f"{path.name}:{start}", "not CSV", str(error))
            continue
        yield from lines.pop_bad_rows()
        if len(values) == len(header):
            yield Record(f"{path.name}:{start}", dict(zip(header, values, strict=True)))
        elif values:
            yield BadRow(
                f"{path.name}:{start}",
                "wrong number of fields",
                f"{len(values)}, the first line has {len(header)}",
            )


class _GoodLines(Iterator[str]):
    """The good lines of a file, for the csv module. The bad ones wait for `pop_bad_rows`."""

    def __init__(self, path: Path) -> None:
        self._lines = read_lines(path)
        self._bad_rows: list[BadRow] = []
        self.number = 0

    def __next__(self) -> str:
        for line in self._lines:
            if isinstance(line, NumberedLine):
                self.number = line.number
                return line.text + "\n"
            self._bad_rows.append(line)
        raise StopIteration

    def pop_bad_rows(self) -> list[BadRow]:
        """Returns the bad lines since the last call."""
        bad_rows, self._bad_rows = self._bad_rows, []
        return bad_rows


def read_columnar(path: Path) -> Iterator[Record]:
    """Yields every row of a Parquet, Feather or Arrow file. Raises BadData for a damaged file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                yield from _records(file.iter_batches(batch_size=_BATCH_ROWS), path.name)
        else:
            with pa.memory_map(str(path)) as memory:
                yield from _records(_arrow_batches(memory), path.name)
    except (pa.ArrowException, OSError) as error:
        raise BadData(
            f"{path} is not a whole {path.suffix[1:]} file: {str(error).splitlines()[0]}. Download"
            " or write it again."
        ) from error


def _arrow_batches(memory: Any) -> Iterator[Any]:
    """Yields the batches of an Arrow file or an Arrow stream."""
    import pyarrow as pa

    try:
        file = pa.ipc.open_file(memory)
    except pa.ArrowInvalid:
        memory.seek(0)
        yield from pa.ipc.open_stream(memory)
        return
    for number in range(file.num_record_batches):
        yield file.get_batch(number)


def _records(batches: Any, name: str) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for values in batch.slice(start, _BATCH_ROWS).to_pylist():
                number += 1
                yield Record(f"{name}:{number}", values)
