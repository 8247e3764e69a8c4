"""`nearfar cut`: writes the smaller model inside a model that was trained with matryoshka."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import shared

OutFolder = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="FOLDER", help="folder of the smaller model", show_default=False
    ),
]
Layers = Annotated[
    int | None,
    typer.Option(
        "--layers",
        min=1,
        metavar="N",
        help="keep the first N layers (default: all)",
        show_default=False,
    ),
]
Dimensions = Annotated[
    int | None,
    typer.Option(
        "--dimensions",
        min=1,
        metavar="N",
        help="keep the first N components of each vector (default: all)",
        show_default=False,
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="replace the model that is in the folder")]


def cut(
    model: shared.ModelName,
    out: OutFolder,
    layers: Layers = None,
    dimensions: Dimensions = None,
    replace: Replace = False,
) -> None:
    """Write the smaller model inside a model that was trained with matryoshka: its first layers,
    the first components of its vectors, or both.
    """
    from trainer.models.cut import write_cut

    print(write_cut(model, out, layers, dimensions, replace))
