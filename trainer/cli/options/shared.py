"""Options that several verbs share, with the same name and help text in all of them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.errors import BadRecipe

PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]
Split = Literal["train", "dev", "test"]

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="folder of a model, or its name on the hub", show_default=False
    ),
]
MachineFile = Annotated[
    Path,
    typer.Option(
        "--machine",
        metavar="FILE",
        help="machine file, e.g. launch/accelerate/ddp.yaml",
        show_default=False,
    ),
]
RecipeFile = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE",
        help="recipe file, or a name of `nearfar recipe list`, e.g. quickstart",
        show_default=False,
    ),
]
ViewName = Annotated[
    str | None,
    typer.Option(
        "--view",
        metavar="NAME",
        help="one of several indexes of the same documents in one folder, e.g. dense",
        show_default=False,
    ),
]
CostLimit = Annotated[
    float,
    typer.Option(
        "--cost",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="the mean cost of a query may be at most this share of the cost of asking all routes",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="changes to the recipe, e.g. optimization.epochs=3",
        show_default=False,
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        "--nodes",
        min=1,
        metavar="N",
        help="number of machines, each with the processes of the file (default: as in the file)",
        show_default=False,
    ),
]
NodeRank = Annotated[
    int | None,
    typer.Option(
        "--node-rank",
        min=0,
        metavar="N",
        help="number of this machine, from 0; required with several machines",
        show_default=False,
    ),
]
MainAddress = Annotated[
    str | None,
    typer.Option(
        "--main-address",
        metavar="HOST[:PORT]",
        help="address of machine 0, the same on every machine; required with several machines",
        show_default=False,
    ),
]
IndexModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="folder or name of the model that made the index, if the model was moved",
        show_default=False,
    ),
]
ColumnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help=(
            "name the column of a role (query, positive, negative, score) if it is not"
            " recognized, e.g. --column query=title; may be repeated"
        ),
        show_default=False,
    ),
]
SplitName = Annotated[
    Split, typer.Option("--split", help="split of a folder in BEIR layout or of a hub data set")
]
MaxBadRowsRatio = Annotated[
    float,
    typer.Option(
        "--max-bad-rows-ratio",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="exit with code 87 if a larger share of the lines cannot be used",
    ),
]
Layers = Annotated[
    int | None,
    typer.Option(
        "--layers",
        min=1,
        metavar="N",
        help="use the first N layers of a model trained with matryoshka (default: all)",
        show_default=False,
    ),
]
Dimensions = Annotated[
    int | None,
    typer.Option(
        "--dimensions",
        min=1,
        metavar="N",
        help=(
            "use the first N components of each vector of a model trained with matryoshka"
            " (default: all)"
        ),
        show_default=False,
    ),
]
PrecisionName = Annotated[
    PrecisionChoice,
    typer.Option(
        "--precision",
        help=(
            "number format of the model; bf16 is faster and changes about the third digit of a"
            " score; auto: bf16 where the hardware supports it"
        ),
    ),
]
Reranker = Annotated[
    str | None,
    typer.Option(
        "--rerank",
        metavar="MODEL",
        help="cross-encoder that re-orders the first documents of each query",
        show_default=False,
    ),
]
RerankDepth = Annotated[
    int,
    typer.Option(
        "--rerank-depth", min=1, metavar="N", help="documents per query that --rerank re-orders"
    ),
]


def columns_of(names: list[str] | None, source: str | None = None) -> dict[str, str]:
    """Returns the column of each role from `--column` options. Raises BadRecipe, also for a source
    that has no columns.
    """
    from trainer.data.readers.beir import is_beir_folder

    columns = dict(name.partition("=")[::2] for name in names or ())
    if not all(columns.values()):
        raise BadRecipe("--column needs ROLE=NAME, e.g. --column query=title")
    if columns and source is not None and is_beir_folder(Path(source)):
        raise BadRecipe(
            f"--column names a column of a table, but {source} is a folder in BEIR layout, whose"
            " fields have fixed names; leave --column out"
        )
    return columns
