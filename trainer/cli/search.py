"""`nearfar search`: prints the documents of an index that answer a question."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli import terminal
from trainer.cli.options import shared

if TYPE_CHECKING:
    from trainer.retrieval.indexes.index import Hit
    from trainer.retrieval.indexes.searcher import Explanation, Searcher

Row = Sequence[str | float]
"""A row of a table."""
IndexFolder = Annotated[
    Path,
    typer.Argument(metavar="INDEX", help="folder that `nearfar index` wrote", show_default=False),
]
Question = Annotated[
    str, typer.Argument(metavar="QUESTION", help="text to search for", show_default=False)
]
Count = Annotated[int, typer.Option("-k", min=1, metavar="N", help="print N documents")]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        help=(
            "print why the best document was found: for a late-interaction model, the token that"
            " each token of the question matched; for a sparse model, the terms that both share"
        ),
    ),
]
Hybrid = Annotated[
    bool,
    typer.Option(
        "--hybrid",
        help=(
            "search all views of the folder, and combine them by reciprocal ranks (RRF, k = 60), or"
            " by --weights"
        ),
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="VIEW=WEIGHT,...",
        help=(
            "with --hybrid: combine these views by a weighted sum of their scores instead, e.g."
            " dense=0.3,sparse=0.7, or dense=0.4,bm25=0.6 with BM25; `ranks` for reciprocal ranks"
            " (default: the weights that `nearfar evaluate --learn-weights` has learned, if any)"
        ),
        show_default=False,
    ),
]
RouterFolder = Annotated[
    Path | None,
    typer.Option(
        "--router",
        metavar="ROUTER",
        help="search the views that a router of `nearfar route fit` chooses for the question",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="print the hits as one JSON list; with --explain, the matches inside the first",
    ),
]


def search(
    index: IndexFolder,
    question: Question,
    k: Count = 5,
    explain: Explain = False,
    as_json: AsJson = False,
    model: shared.IndexModel = None,
    rerank: shared.Reranker = None,
    rerank_depth: shared.RerankDepth = 100,
    view: shared.ViewName = None,
    hybrid: Hybrid = False,
    weights: Weights = None,
    router: RouterFolder = None,
    cost: shared.CostLimit = 0.5,
) -> None:
    """Print the documents of an index that best answer a question, best first."""
    from trainer.errors import BadData
    from trainer.retrieval.indexes.searcher import Searcher

    if not question.strip():
        raise BadData("the question is blank; write the text to search for")
    if router is not None:
        _check_alone(hybrid, view, weights, model)
        searcher = _open_chosen(index, router, question, cost, rerank, rerank_depth)
    else:
        searcher = Searcher.open(
            index,
            model=model,
            reranker=rerank,
            rerank_depth=rerank_depth,
            view=view,
            hybrid=hybrid,
            weights=_view_weights(view, hybrid, weights),
        )
    if searcher.note:
        terminal.tell(searcher.note)
    if explain:
        searcher.check_explains()
    (hits,) = searcher.search([question], k)
    explanation = searcher.explain(question, hits[0]) if explain and hits else []
    if not hits and searcher.count == 0:
        terminal.tell(f"{index} contains no documents; add some with `nearfar add`")
    elif not hits:
        terminal.tell("no document shares a term with the question")
    _print(hits, explanation, as_json)


def _print(hits: "list[Hit]", explanation: "Explanation", as_json: bool) -> None:
    if as_json:
        print(json.dumps(_as_json(hits, explanation), indent=2))
        return
    _show(hits)
    if explanation:
        _show_explanation(explanation)


def _check_alone(hybrid: bool, *options: str | None) -> None:
    """Raises a usage error for options that a router makes senseless."""
    if hybrid or any(option is not None for option in options):
        raise typer.BadParameter(
            "--router chooses views; leave other choices of views and --model out"
        )


def _open_chosen(
    index: Path, router: Path, question: str, cost: float, reranker: str | None, rerank_depth: int
) -> "Searcher":
    from trainer.routing.router import Router
    from trainer.routing.search import open_chosen

    opened_router = Router.open(router)
    searcher, name = open_chosen(index, opened_router, question, cost, reranker, rerank_depth)
    terminal.tell(f"the router asks {name}")
    return searcher


def _view_weights(view: str | None, hybrid: bool, weights: str | None) -> dict[str, float] | None:
    """Raises BadRecipe for options that contradict each other."""
    from trainer.errors import BadRecipe
    from trainer.retrieval.indexes.views import parse_weights

    if hybrid and view is not None:
        raise BadRecipe("--view searches one view, and --hybrid all of them; give one of the two")
    if weights is not None and not hybrid:
        raise BadRecipe("--weights are those of --hybrid; give --hybrid too")
    return None if weights is None else parse_weights(weights)


def _as_json(hits: "list[Hit]", explanation: "Explanation") -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for rank, hit in enumerate(hits, 1):
        entry = {"rank": rank, "score": round(hit.score, 6), **asdict(hit.document)}
        if hit.first_score is not None:
            entry |= {"first_rank": hit.first_rank, "first_score": round(hit.first_score, 6)}
        entries.append(entry)
    if explanation:
        entries[0]["matches"] = [asdict(part) for part in explanation]
    return entries


def _show(hits: "list[Hit]") -> None:
    """Prints two lines per hit: rank, score, id and title, and then the beginning of the text.

    Everything from the corpus is escaped.
    """
    from rich.console import Console
    from rich.text import Text

    from trainer.storage.visible import visible

    console = Console(highlight=False)
    for rank, hit in enumerate(hits, 1):
        title, text = (
            " ".join(part[:1000].split()) for part in (hit.document.title, hit.document.text)
        )
        remark = "" if hit.first_score is None else f"was {hit.first_rank}, {hit.first_score:.3f}"
        line = Text.assemble(
            f"{rank:>3}  {hit.score:.3f}  ",
            (f"{remark:<14}  " if remark else "", "dim"),
            (visible(hit.document.id, 40), "bold"),
            f"  {visible(title or text, 120)}",
        )
        console.print(line, no_wrap=True, overflow="ellipsis")
        if title and text:
            console.print(
                Text(f"            {visible(text, 120)}", "dim"), no_wrap=True, overflow="ellipsis"
            )


def _show_explanation(explanation: "Explanation") -> None:
    """Prints one line per term that question and document share, or per token of the question.

    All tokens of query expansion have one line together.
    """
    from trainer.retrieval.indexes.shared_terms import SharedTerm

    rows: list[Row] = []
    filling = []
    for part in explanation:
        if isinstance(part, SharedTerm):
            rows.append((part.term, part.query_weight, part.document_weight, part.score))
        elif part.filling:
            filling.append(part.similarity)
        else:
            rows.append((part.query_token, part.document_token, part.similarity))
    if filling:
        rows.append((f"{len(filling)} expansion tokens", "", sum(filling)))
    if isinstance(explanation[0], SharedTerm):
        _show_table(("term", "question", "first document", "score"), rows)
    else:
        _show_table(("question", "first document", "similarity"), rows)


def _show_table(header: Sequence[str], rows: Sequence[Row]) -> None:
    """Prints a table and the sum of its last column. Numbers have three decimals."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from trainer.storage.visible import visible

    table = Table(box=None, header_style="dim")
    for name, cell in zip(header, rows[0], strict=True):
        table.add_column(name, justify="left" if isinstance(cell, str) else "right")
    for row in rows:
        cells = [visible(cell, 40) if isinstance(cell, str) else f"{cell:.3f}" for cell in row]
        table.add_row(*map(Text, cells))
    total = sum(float(row[-1]) for row in rows)
    table.add_row(Text("total", "bold"), *[""] * (len(header) - 2), f"{total:.3f}")
    Console(highlight=False).print(table)
