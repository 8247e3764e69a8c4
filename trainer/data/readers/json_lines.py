"""Reads text files line by line, and JSON Lines, in bounded memory; bad lines become `BadRow`s."""

import gzip
import json
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data.readers.report import BadRow
from trainer.errors import BadData
from trainer.storage.near_paths import nearest_path

MAX_LINE_BYTES = 32 * 2**20
"""A longer line is skipped; it is never held in memory."""
_READ_ADVICE = ". Check that it exists and that you may read it."
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class NumberedLine(NamedTuple):
    """A decoded line without its line break, and its number, counted from 1."""

    number: int
    text: str
    has_line_break: bool
    """False for a last line that may be truncated."""


class Record(NamedTuple):
    """The named values of one row, and its source (`file:line`)."""

    source: str
    values: dict[str, Any]


def read_lines(path: Path) -> Iterator[NumberedLine | BadRow]:
    """Yields every line of a UTF-8 file, which may be a .gz. A bad line is a BadRow.

    A byte order mark and CR LF are removed. Raises BadData for another encoding, and for a damaged
    .gz file with the offset at which it breaks.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from _decode_lines(file, path)
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise BadData(f"{path} is not a whole .gz file: {error}. Download it again.") from error
        raise BadData(
            f"{path} cannot be read: {error.strerror or error}{nearest_path(path) or _READ_ADVICE}"
        ) from error


def _decode_lines(file: BufferedIOBase, path: Path) -> Iterator[NumberedLine | BadRow]:
    number = 0
    while True:
        offset, number = file.tell(), number + 1
        source = f"{path.name}:{number}"
        try:
            raw = file.readline(MAX_LINE_BYTES + 1)
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                length = len(raw) + _skip_line(file)
                yield BadRow(
                    source, f"line longer than {MAX_LINE_BYTES // 2**20} MB", f"{length} bytes"
                )
                continue
        except (EOFError, zlib.error) as error:
            raise BadData(
                f"{path} is a damaged or truncated .gz file: it breaks in line {number}, after byte"
                f" {offset} of the uncompressed text ({error}). Download it again."
            ) from error
        if not raw:
            return
        if number == 1:
            if encoding := _OTHER_ENCODINGS.get(raw[:2]):
                raise BadData(
                    f"{path} is {encoding}, not UTF-8; convert it, e.g. `iconv -f {encoding} -t"
                    " UTF-8`."
                )
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        yield _decode_line(raw, number, source)


def _decode_line(raw: bytes, number: int, source: str) -> NumberedLine | BadRow:
    if b"\0" in raw:
        return BadRow(source, "NUL byte", f"at byte {raw.index(0)}")
    try:
        return NumberedLine(number, raw.decode("utf-8").rstrip("\r\n"), raw.endswith(b"\n"))
    except UnicodeDecodeError as error:
        return BadRow(
            source, "not UTF-8", f"byte 0x{raw[error.start]:02x} at byte {error.start} of the line"
        )


def _skip_line(file: BufferedIOBase) -> int:
    """Reads up to the end of the line; the number of bytes skipped."""
    skipped_bytes = 0
    while part := file.readline(2**20):
        skipped_bytes += len(part)
        if part.endswith(b"\n"):
            break
    return skipped_bytes


def read_json_lines(path: Path) -> Iterator[Record | BadRow]:
    """Yields every JSON object of a file with one object per line. Blank lines are skipped.

    Raises BadData for a file that is one JSON array.
    """
    for line in read_lines(path):
        if isinstance(line, BadRow):
            yield line
        elif line.text.strip():
            if line.number == 1 and line.text.lstrip().startswith("["):
                raise BadData(
                    f"{path} is one JSON array; write one object per line (JSON Lines), e.g. `jq -c"
                    f" '.[]' {path.name} > {path.stem}.jsonl`."
                )
            yield _parse_record(line, f"{path.name}:{line.number}")


def _parse_record(line: NumberedLine, source: str) -> Record | BadRow:
    try:
        values = json.loads(line.text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "not JSON" if line.has_line_break else "not JSON; truncated last line"
        return BadRow(source, reason, str(error)[:200])
    if not isinstance(values, dict):
        return BadRow(source, "not a JSON object", f"a {type(values).__name__}")
    return Record(source, values)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
