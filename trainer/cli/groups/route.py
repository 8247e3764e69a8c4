"""`nearfar route`: fit, evaluate and ask."""

import json
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import terminal
from trainer.cli.evaluate import Corpus, MaxQueries, OutFile
from trainer.cli.measure.selection import JudgedQueries
from trainer.cli.options import questions, shared

app = typer.Typer(
    no_args_is_help=True, help="Learn which way of searching to ask for a query, and measure it."
)

Routes = Annotated[
    list[str],
    typer.Argument(
        metavar="ROUTE...",
        help=(
            "two or more of: a model of texts (folder, name or run folder), bm25, index:FOLDER; a"
            " folder of views, also of images, stands for each of them"
        ),
        show_default=False,
    ),
]
RouterFolder = Annotated[
    Path, typer.Argument(metavar="ROUTER", help="the folder of a router", show_default=False)
]
Queries = Annotated[
    list[str] | None,
    typer.Argument(metavar="QUERY", help="texts of queries, each in quotes", show_default=False),
]
QueryImages = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        metavar="FILE",
        help="a query that is an image; may be repeated",
        show_default=False,
    ),
]
LearningSplit = Annotated[
    shared.Split,
    typer.Option(
        "--split", help="learn from the queries of this split; no model may be trained on them"
    ),
]
NewFolder = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="FOLDER", help="write the router here", show_default=False),
]
Replace = Annotated[bool, typer.Option("--replace", help="replace the router in the folder")]


@app.command("fit")
def fit_command(
    routes: Routes,
    data: JudgedQueries,
    out: NewFolder,
    corpus: Corpus = None,
    split: LearningSplit = "dev",
    max_queries: MaxQueries = None,
    replace: Replace = False,
    precision: shared.PrecisionName = "auto",
) -> None:
    """Learn from judged queries which route to ask, and write the router."""
    with terminal.loading_libraries():
        from trainer.evaluation.judged_data import LocalData
        from trainer.evaluation.systems.open import SystemSettings
        from trainer.routing.job import learn_router
        from trainer.routing.table import curve_lines

    judged_set = LocalData(data, split, {}, corpus, max_queries)
    router = learn_router(
        routes, judged_set, out, SystemSettings(precision), terminal.tell, replace
    )
    for line in curve_lines(router):
        typer.echo(line)
    typer.echo(str(out))


@app.command()
def evaluate(
    router: RouterFolder,
    data: JudgedQueries,
    corpus: Corpus = None,
    split: shared.SplitName = "test",
    max_queries: MaxQueries = None,
    cost: shared.CostLimit = 0.5,
    out: OutFile = None,
    precision: shared.PrecisionName = "auto",
) -> None:
    """Measure a router beside each of its routes, and beside asking all of them."""
    with terminal.loading_libraries():
        from rich.console import Console

        from trainer.evaluation.judged_data import LocalData
        from trainer.evaluation.systems.open import SystemSettings
        from trainer.routing.job import measure_router
        from trainer.routing.router import Router
        from trainer.routing.table import evaluation_content, router_lines, router_tables
        from trainer.storage.atomic import write_text

    if out is not None:
        terminal.check_parent(out, "--out")
    judged_set = LocalData(data, split, {}, corpus, max_queries)
    evaluation = measure_router(
        Router.open(router), judged_set, cost, SystemSettings(precision), terminal.tell
    )
    console = Console(highlight=False)
    for table in router_tables(evaluation):
        console.print(table)
    for line in router_lines(evaluation):
        console.print(line, markup=False)
    if out is not None:
        write_text(out, json.dumps(evaluation_content(evaluation), indent=1) + "\n")


@app.command()
def ask(
    router: RouterFolder,
    query: Queries = None,
    image: QueryImages = None,
    cost: shared.CostLimit = 0.5,
) -> None:
    """Print the route that each query should take: words, or with --image a picture."""
    with terminal.loading_libraries():
        from trainer.images.reference import read_query_image
        from trainer.routing.router import Router

    texts, images = query or [], image or []
    if not texts and not images:
        raise typer.BadParameter("give a QUERY in words, or --image FILE")
    for text in texts:
        questions.check_words(text)
    for file in images:
        read_query_image(file)
    opened_router = Router.open(router)
    for text, name in zip(texts, opened_router.route_names(texts, cost), strict=True):
        typer.echo(f"{name}\t{text}")
    for file in images:
        typer.echo(f"{' + '.join(opened_router.settings.checked_image_routes)}\t{file}")
