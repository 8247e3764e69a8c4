"""A .npy file that grows row by row, for arrays whose length is known only at the end."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Shaped


class GrowingArray:
    """Appends rows to a file; closing it writes the number of rows into the header.

    NumPy's headers have space for any number of rows.
    """

    def __init__(self, path: Path, kind: type, *row_shape: int) -> None:
        self._file = path.open("wb")
        self._kind = np.dtype(kind)
        self._row_shape = row_shape
        self.rows = 0
        self._write_header()

    def append(self, rows: Shaped[np.ndarray, "..."]) -> None:
        """Appends `rows`, converted to the number type of the file."""
        assert rows.shape[1:] == self._row_shape
        self._file.write(np.ascontiguousarray(rows, dtype=self._kind).tobytes())
        self.rows += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        header = {
            "shape": (self.rows, *self._row_shape),
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(self._kind),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
