"""R25: a truncated or damaged .gz is a named error with the offset, and never hangs."""

import gzip
import random
from pathlib import Path

import pytest

from trainer.data.readers.read import read_rows
from trainer.errors import BadData

LINES = "".join(
    f'{{"query": "question {number} {random.Random(number).random()}", "positive": "answer'
    f' {number}"}}\n'
    for number in range(2000)
).encode()


def test_r25_truncated_gz_is_refused_with_the_offset(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    packed = gzip.compress(LINES)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(
        BadData,
        match=(
            r"cut.jsonl.gz is a damaged or truncated .gz file: it breaks in line \d+, after byte"
            r" [1-9]\d+ of"
        ),
    ):
        read_rows(str(path))


@pytest.mark.parametrize("offset", [0, 12, 2000, -8, -4])
def test_r25_damaged_byte_in_a_gz_is_refused(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "bad.jsonl.gz"
    packed = bytearray(gzip.compress(LINES))
    packed[offset] ^= 0xFF
    path.write_bytes(packed)
    with pytest.raises(BadData, match="bad.jsonl.gz"):
        read_rows(str(path), max_bad_rows_ratio=1.0)


@pytest.mark.parametrize("content", [b"", b"\x1f", b"\x1f\x8b", b"plain text"])
def test_r25_file_that_is_no_gz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(BadData, match="no.jsonl.gz"):
        read_rows(str(path))
