"""`nearfar cut` and `nearfar blend`: write a model that is made from others, without training."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import terminal
from trainer.cli.options import shared

OutFolder = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="FOLDER", help="folder of the model to write", show_default=False
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

Base = Annotated[
    str,
    typer.Argument(
        metavar="BASE", help="folder or name of the model before training", show_default=False
    ),
]
TunedModel = Annotated[
    str,
    typer.Argument(
        metavar="TUNED",
        help="the model that was trained from it, or its run folder",
        show_default=False,
    ),
]
Share = Annotated[
    float,
    typer.Option("--share", min=0.0, max=1.0, help="how far to go from BASE (0) to TUNED (1)"),
]


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
    with terminal.loading_libraries():
        from trainer.models.cut import write_cut
        from trainer.runs.run_model import model_of

    print(write_cut(model_of(model), out, layers, dimensions, replace))


def blend(
    base: Base,
    tuned_model: TunedModel,
    out: OutFolder,
    share: Share = 0.7,
    replace: Replace = False,
) -> None:
    """Write the model between two: its weights are BASE + share (TUNED - BASE).

    It keeps most of what training gained, and loses less on other data (Wortsman et al. 2022).
    Measure it with `nearfar evaluate`.
    """
    with terminal.loading_libraries():
        from trainer.models.blend import write_blend
        from trainer.runs.run_model import model_of

    print(write_blend(model_of(base), model_of(tuned_model), share, out, replace))
