"""Encoding of lines of text into a file of vectors, in the format of NumPy, or of SciPy if they are
sparse.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from trainer.errors import BadData
from trainer.models.contracts.text import Role
from trainer.models.cut import first_layers
from trainer.models.families import read_single_vector_model
from trainer.progress import phase
from trainer.retrieval.encoding.encode import encode
from trainer.storage.atomic import atomic_file
from trainer.strategies import devices
from trainer.vectors.sparse import SparseVectors

_TEXTS_AT_ONCE = 65536


@runtime_checkable
class BinaryOutput(Protocol):
    """An open file, or standard output, that takes bytes."""

    def write(self, content: bytes, /) -> object:
        """Writes bytes."""

    def flush(self) -> None:
        """Hands on what was written."""


def texts_of_lines(lines: Iterable[bytes]) -> list[str]:
    """Returns the lines as texts.

    Raises BadData for a line that is blank or not UTF-8: without it, later vectors would be in the
    wrong row.
    """
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise BadData(
                f"line {number} of the input is not UTF-8 (byte {error.start}); convert the file"
                " first"
            ) from error
        if not text.strip():
            raise BadData(
                f"line {number} of the input is blank, and every line gets one vector; remove blank"
                " lines first, e.g. with `grep -v '^\\s*$'`"
            )
        texts.append(text)
    if not texts:
        raise BadData("the input is empty; give one text per line")
    return texts


def encode_texts(
    model: str,
    texts: Sequence[str],
    out: Path | BinaryOutput,
    role: Role = "document",
    *,
    layers: int | None = None,
    dimensions: int | None = None,
    precision: devices.Precision | Literal["auto"] = "fp32",
) -> int:
    """Writes one float32 vector per text to `out`; returns the number of dimensions.

    Dense vectors have NumPy's .npy format. Those of a sparse model are a matrix in CSR format, one
    row per text and one column per word, as `scipy.sparse.save_npz` writes it. If encoding fails,
    no file is written.
    """
    accelerator = devices.find_accelerator()
    numbers = devices.choose_precision(precision, accelerator)
    with phase("loading the model"):
        encoder = read_single_vector_model(model)
    encoder = (encoder if layers is None else first_layers(encoder, layers)).to(accelerator)
    encoder = encoder if dimensions is None else encoder.with_dimensions(dimensions)
    starts = range(0, len(texts), _TEXTS_AT_ONCE)
    parts = (
        encode(encoder, texts[start : start + _TEXTS_AT_ONCE], role, precision=numbers)
        for start in starts
    )
    with _binary_file(out) as file, phase("encoding texts", len(texts), "texts"):
        write = _write_sparse if encoder.vectors is SparseVectors else _write_dense
        write(file, parts, len(texts), encoder.dimensions)
        file.flush()
    return encoder.dimensions


def _write_dense(file: BinaryOutput, parts: Iterator[Any], texts: int, dimensions: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (texts, dimensions)}
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts:
        file.write(part.rows.tobytes())


def _write_sparse(file: BinaryOutput, parts: Iterator[Any], texts: int, dimensions: int) -> None:
    arrays: dict[str, Any] = SparseVectors.join(parts, texts, dimensions).csr_arrays
    np.savez_compressed(file, **arrays)


@contextlib.contextmanager
def _binary_file(out: Path | BinaryOutput) -> Iterator[BinaryOutput]:
    if not isinstance(out, Path):
        yield out
        return
    try:
        with atomic_file(out) as partial, partial.open("wb") as file:
            yield file
    except OSError as error:
        raise BadData(
            f"cannot write {out}: {error.strerror}; choose another place with -o"
        ) from error
