"""`nearfar encode`: encodes texts as vectors."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.cli import terminal
from trainer.cli.options import shared

RoleName = Annotated[
    Literal["document", "query"],
    typer.Option("--as", help="encode with the prompt and maximum length of this role"),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        metavar="FILE",
        help="file to write (default: standard output)",
        show_default=False,
    ),
]


def encode(
    model: shared.ModelName,
    role: RoleName = "document",
    out: OutFile = None,
    dimensions: shared.Dimensions = None,
    layers: shared.Layers = None,
    precision: shared.PrecisionName = "fp32",
) -> None:
    """Read one text per line from standard input, and write one float32 vector per text.

    The output has NumPy's .npy format: nearfar encode MODEL < texts.txt > vectors.npy

    Those of a sparse model are a matrix with one column per word, in the format of
    scipy.sparse.save_npz: nearfar encode MODEL < texts.txt > vectors.npz
    """
    from trainer.errors import BadData

    if out is None and sys.stdout.isatty():
        raise BadData(
            "vectors are binary and cannot be shown on a terminal; write them to a file: nearfar"
            " encode MODEL < texts.txt > vectors.npy"
        )
    if sys.stdin.isatty():
        terminal.tell("reading texts from the keyboard, one per line; end with Ctrl-D")
    with terminal.loading_libraries():
        from trainer.retrieval.encoding.encode_file import encode_texts, texts_of_lines

    texts = texts_of_lines(sys.stdin.buffer)
    width = encode_texts(
        model,
        texts,
        out or sys.stdout.buffer,
        role,
        layers=layers,
        dimensions=dimensions,
        precision=precision,
    )
    terminal.tell(f"{len(texts):,} vectors of {width} dimensions")
