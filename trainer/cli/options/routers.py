"""Options of a search by a router."""

from pathlib import Path
from typing import Annotated

import typer

RouterToAsk = Annotated[
    Path | None,
    typer.Option(
        "--router",
        metavar="ROUTER",
        help="search the views that a router of `nearfar route fit` chooses for the question",
        show_default=False,
    ),
]
RouterCost = Annotated[
    float | None,
    typer.Option(
        "--cost",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help=(
            "with --router: the mean cost of a query may be at most this share of the cost of"
            " asking all routes (default: 0.5)"
        ),
        show_default=False,
    ),
]
