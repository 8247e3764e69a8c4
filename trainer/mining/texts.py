"""Numbered texts on disk, in little memory."""

import copy
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from trainer.storage.atomic import atomic_file

_SCHEMA = pa.schema([("text", pa.large_string())])
_FLUSH_TEXTS, _FLUSH_CHARACTERS = 4096, 8_000_000


class TextWriter:
    """Appends texts to a file, which gets its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self._place = atomic_file(path)
        self._file = pa.ipc.new_file(self._place.__enter__(), _SCHEMA)
        self._pending: list[str] = []
        self._characters = 0
        self.count = 0

    def add(self, text: str) -> None:
        """Appends a text."""
        self._pending.append(text)
        self._characters += len(text)
        self.count += 1
        if len(self._pending) >= _FLUSH_TEXTS or self._characters >= _FLUSH_CHARACTERS:
            self._flush()

    def __enter__(self) -> Self:
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
        self._place.__exit__(kind, error, trace)

    def _flush(self) -> None:
        if self._pending:
            self._file.write_batch(
                pa.record_batch([pa.array(self._pending, type=pa.large_string())], schema=_SCHEMA)
            )
            self._pending, self._characters = [], 0


class StoredTexts:
    """The texts of a file that `TextWriter` wrote, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self._column = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("text")

    def __len__(self) -> int:
        return len(self._column)

    def select(self, numbers: Int64[np.ndarray, " text"]) -> "StoredTexts":
        """Returns only the texts with these numbers, in memory."""
        selection = copy.copy(self)
        selection._column = pa.chunked_array([pa.array(self.at(numbers), type=pa.large_string())])
        return selection

    def range(self, first: int, last: int) -> list[str]:
        """Returns the texts from number `first` up to `last` (exclusive)."""
        return self._column.slice(first, max(0, last - first)).to_pylist()

    def at(self, numbers: Int64[np.ndarray, " text"]) -> list[str]:
        """Returns the texts with these numbers, in this order."""
        if len(numbers) < self._column.num_chunks:
            return [self._column[number].as_py() for number in numbers.tolist()]
        texts = np.empty(len(numbers), object)
        ends = np.cumsum([len(chunk) for chunk in self._column.chunks])
        chunks = np.searchsorted(ends, numbers, side="right")
        for chunk in np.unique(chunks).tolist():  # `take` on the column would copy all
            chunk_texts, in_chunk = self._column.chunk(chunk), chunks == chunk
            texts[in_chunk] = chunk_texts.take(
                pa.array(numbers[in_chunk] - (ends[chunk] - len(chunk_texts)))
            ).to_pylist()
        result: list[str] = texts.tolist()
        return result
