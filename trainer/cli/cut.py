"""`nearfar cut`: the smaller model inside one that was trained with `matryoshka`, as a folder of
its own.
"""

from pathlib import Path
from typing import Annotated

import typer


def cut(
    model: Annotated[str, typer.Argument(help="folder or name of a model", show_default=False)],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="folder of the smaller model", show_default=False)
    ],
    layers: Annotated[
        int | None,
        typer.Option(min=1, help="keep the first so many layers; else all", show_default=False),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="keep the first so many numbers of each vector; else all",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="take the place of the model that is there")
    ] = False,
) -> None:
    """Write the first layers of a model, or the beginnings of its vectors, as a model that every
    reader loads.
    """
    from trainer.errors import BadFolder, BadRecipe
    from trainer.models.cut import read_cut
    from trainer.models.formats.folder import check_model_folder, save_encoder

    if layers is None and dimensions is None:
        raise BadRecipe("nothing is to be cut; give --layers, --dimensions, or both")
    check_model_folder(out, replace)
    if Path(model).exists() and Path(model).resolve().is_relative_to(out.resolve()):
        raise BadFolder(
            f"{out} holds the model that is to be cut, which would be gone; give another folder"
        )
    encoder = read_cut(model, layers, dimensions)
    save_encoder(encoder, out, replace)
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    print(f"{out}: {weights:,} weights, vectors of {encoder.dimensions} numbers")
