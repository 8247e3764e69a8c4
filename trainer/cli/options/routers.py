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


def check_router_options(
    router: Path | None,
    cost: float | None,
    image: Path | None,
    reranker: str | None,
    *choices: str | bool | None,
) -> None:
    """Raises a usage error for a cost without a router, and for options that a router makes
    senseless: `choices` of what is searched, and options of words beside an image.
    """
    if router is None:
        if cost is not None:
            raise typer.BadParameter("--cost is that of --router; give --router too")
    elif any(choice not in (None, False) for choice in choices):
        raise typer.BadParameter(
            "--router chooses views; leave other choices of views and --model out"
        )
    elif image is not None and (cost is not None or reranker is not None):
        raise typer.BadParameter(
            "a router compares an image with all views of images, whatever they cost; leave --cost"
            " and --rerank out"
        )
