"""`nearfar route`: fit, evaluate and ask."""

import json
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import terminal
from trainer.cli.evaluate import Corpus, MaxQueries, OutFile
from trainer.cli.measure.selection import JudgedQueries
from trainer.cli.options import shared

app = typer.Typer(
    no_args_is_help=True, help="Learn which way of searching to ask for a query, and measure it."
)

Routes = Annotated[
    list[str],
    typer.Argument(
        metavar="ROUTE...",
        help=(
            "two or more of: a model (folder, name or run folder), bm25, index:FOLDER; a folder of"
            " views stands for each of them"
        ),
        show_default=False,
    ),
]
RouterFolder = Annotated[
    Path, typer.Argument(metavar="ROUTER", help="the folder of a router", show_default=False)
]
Queries = Annotated[
    list[str],
    typer.Argument(metavar="QUERY...", help="texts of queries, each in quotes", show_default=False),
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
        from trainer.data.retrieval_set import read_retrieval_set
        from trainer.evaluation.systems.open import SystemSettings
        from trainer.routing.answers import ask_routes, check_routes
        from trainer.routing.features import WordCounts
        from trainer.routing.fit import check_can_learn, fit_router
        from trainer.routing.router import check_router_folder
        from trainer.routing.search import routes_of_views
        from trainer.routing.table import curve_lines
        from trainer.runs.run_model import model_of

    check_can_learn()
    check_router_folder(out, replace)
    routes = [route for word in routes for route in routes_of_views(word)]
    check_routes(routes)
    judged_set = read_retrieval_set(data, split, max_queries=max_queries, corpus=corpus)
    answers = ask_routes(routes, judged_set, SystemSettings(precision), model_of, terminal.tell)
    router = fit_router(answers, WordCounts.of(judged_set.documents))
    router.save(out, replace)
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

        from trainer.data.retrieval_set import read_retrieval_set
        from trainer.evaluation.systems.open import SystemSettings
        from trainer.routing.answers import ask_routes
        from trainer.routing.measure import evaluate_router
        from trainer.routing.router import Router
        from trainer.routing.table import evaluation_content, router_lines, router_table
        from trainer.runs.run_model import model_of
        from trainer.storage.atomic import write_text

    if out is not None:
        terminal.check_parent(out, "--out")
    opened_router = Router.open(router)
    opened_router.settings.price_for(cost)  # the error of an option comes before slow work
    judged_set = read_retrieval_set(data, split, max_queries=max_queries, corpus=corpus)
    routes, settings = opened_router.settings.routes, SystemSettings(precision)
    answers = ask_routes(routes, judged_set, settings, model_of, terminal.tell)
    evaluation = evaluate_router(opened_router, answers, cost)
    console = Console(highlight=False)
    console.print(router_table(evaluation))
    for line in router_lines(evaluation):
        console.print(line, markup=False)
    if out is not None:
        write_text(out, json.dumps(evaluation_content(evaluation), indent=1) + "\n")


@app.command()
def ask(
    router: RouterFolder,
    query: Queries,
    cost: shared.CostLimit = 0.5,
) -> None:
    """Print the route that each query should take."""
    with terminal.loading_libraries():
        from trainer.routing.router import Router

    opened_router = Router.open(router)
    names = [*opened_router.settings.routes, "all"]
    for text, place in zip(query, opened_router.choose(query, cost), strict=True):
        typer.echo(f"{names[place]}\t{text}")
