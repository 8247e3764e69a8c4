"""`nearfar cut`: the smaller model inside one that was trained with matryoshka."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import options

OutFolder = Annotated[
    Path, typer.Option("-o", "--out", help="folder of the smaller model", show_default=False)
]
Replace = Annotated[bool, typer.Option("--replace", help="replace the model that is in the folder")]


def cut(
    model: options.ModelName,
    out: OutFolder,
    layers: options.Layers = None,
    dimensions: options.Dimensions = None,
    replace: Replace = False,
) -> None:
    """Write the first layers of a model, or the first components of its vectors, as a model that
    every reader loads.
    """
    from trainer.models.cut import write_cut

    print(write_cut(model, out, layers, dimensions, replace))
