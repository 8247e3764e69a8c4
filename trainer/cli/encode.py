"""`nearfar encode`: texts in, vectors out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from trainer.models.dense import DenseEncoder
    from trainer.retrieval.vectors.encode import Precision

_TEXTS_AT_ONCE = 65536


def encode(
    model: Annotated[str, typer.Argument(help="folder or name of a model", show_default=False)],
    role: Annotated[
        Literal["document", "query"], typer.Option("--as", help="whose prompt and length to use")
    ] = "document",
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="file to write instead of standard output", show_default=False
        ),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="use only the first so many numbers of each vector, as matryoshka trains them",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="use only the first so many layers, as matryoshka trains them",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(
            help="bf16 is faster and moves the third digit; auto: where the hardware has it"
        ),
    ] = "fp32",
) -> None:
    """Read one text a line from standard input, write float32 vectors in NumPy's format: nearfar
    encode MODEL < texts.txt > vectors.npy
    """
    import sys

    from trainer.errors import BadData

    if out is None and sys.stdout.isatty():
        raise BadData(
            "vectors are binary and would garble a terminal; send them to a file: nearfar encode"
            " MODEL < texts.txt > vectors.npy"
        )
    if sys.stdin.isatty():
        print("reading texts from the keyboard, one a line; end with Ctrl-D", file=sys.stderr)
    texts = _lines(sys.stdin.buffer)

    from trainer.build import hardware
    from trainer.models.cut import first_layers
    from trainer.models.dense import read_encoder
    from trainer.recipe import schema as recipe
    from trainer.storage.atomic import atomic_file

    machine = recipe.Machine(precision=precision)
    encoder = read_encoder(model)
    encoder = (encoder if layers is None else first_layers(encoder, layers)).to(
        hardware.accelerator(machine)
    )
    encoder = encoder if dimensions is None else encoder.narrowed(dimensions)
    if out is None:
        _write(encoder, texts, role, hardware.precision(machine), sys.stdout.buffer)
        return
    try:
        with atomic_file(out) as partial, partial.open("wb") as file:
            _write(encoder, texts, role, hardware.precision(machine), file)
    except OSError as error:
        raise BadData(
            f"cannot write {out}: {error.strerror}; choose another place with -o"
        ) from error


def _lines(stream: "Iterable[bytes]") -> list[str]:
    """Every line as a text. Raises BadData naming a line that is blank or not UTF-8: leaving it out
    would shift all later vectors.
    """
    from trainer.errors import BadData

    texts = []
    for number, raw in enumerate(stream, 1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise BadData(
                f"line {number} of the input is not UTF-8 (byte {error.start}); convert the file"
                " first"
            ) from error
        if not text.strip():
            raise BadData(
                f"line {number} of the input is blank; every line gets one vector, so take blank"
                " lines out first, e.g. `grep -v '^\\s*$'`"
            )
        texts.append(text)
    if not texts:
        raise BadData("the input is empty; give one text a line")
    return texts


def _write(
    encoder: "DenseEncoder",
    texts: list[str],
    role: Literal["document", "query"],
    precision: "Precision",
    file: "BinaryIO",
) -> None:
    import sys

    import numpy as np

    from trainer.retrieval.vectors.encode import encode as vectors_of

    header = {"descr": "<f4", "fortran_order": False, "shape": (len(texts), encoder.dimensions)}
    np.lib.format.write_array_header_1_0(file, header)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = texts[start : start + _TEXTS_AT_ONCE]
        file.write(vectors_of(encoder, part, role, precision=precision).tobytes())
        if start + len(part) < len(texts):
            print(f"{start + len(part):,} of {len(texts):,} texts", file=sys.stderr, flush=True)
    file.flush()
    print(f"{len(texts):,} vectors of {encoder.dimensions} numbers", file=sys.stderr)
