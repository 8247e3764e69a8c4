"""`nearfar search`: prints the documents of an index that answer a question."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli import terminal
from trainer.cli.options import questions, routers, shared

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
    str | None, typer.Argument(metavar="QUESTION", help="text to search for", show_default=False)
]
ImageFile = Annotated[
    Path | None,
    typer.Option(
        "--image",
        metavar="FILE",
        help="search an index of images for those like this one, in place of QUESTION",
        show_default=False,
    ),
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
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="print the hits as one JSON list; with --explain, the matches inside the first",
    ),
]


def search(
    index: IndexFolder,
    question: Question = None,
    image: ImageFile = None,
    k: Count = 5,
    explain: Explain = False,
    as_json: AsJson = False,
    model: shared.IndexModel = None,
    rerank: shared.Reranker = None,
    rerank_depth: shared.RerankDepth = 100,
    view: shared.ViewName = None,
    hybrid: Hybrid = False,
    weights: Weights = None,
    router: routers.RouterToAsk = None,
    cost: routers.RouterCost = None,
) -> None:
    """Print the documents of an index that best answer a question, best first."""
    text, reference = _check_question(question, image)
    routers.check_router_options(router, cost, image, rerank, hybrid, view, weights, model)
    _load_libraries(index)
    from trainer.retrieval.indexes.searcher import Searcher

    if router is not None:
        searcher = _open_chosen(index, router, text, cost, rerank, rerank_depth)
    else:
        searcher = Searcher.open(
            index,
            model=model,
            reranker=rerank,
            rerank_depth=rerank_depth,
            view=view,
            hybrid=hybrid,
            weights=_view_weights(weights),
            by_image=reference is not None,
        )
    if searcher.note:
        terminal.tell(searcher.note)
    if explain:
        searcher.check_explains()
    hits = _search(searcher, text, reference, k, hybrid)
    explanation = searcher.explain(text, hits[0]) if explain and hits else []
    if not hits:
        empty = f"{index} contains no documents; add some with `nearfar add`"
        terminal.tell("no document shares a term with the question" if searcher.count else empty)
    _print(hits, explanation, as_json)


def _load_libraries(index: Path) -> None:
    """Raises BadFolder for a folder that is no index, which takes no time, and then imports what
    does.
    """
    from trainer.retrieval.indexes.manifest import read_content

    read_content(index)
    with terminal.loading_libraries():
        import trainer.retrieval.indexes.searcher  # noqa: F401


def _search(
    searcher: "Searcher", text: str, reference: str | None, k: int, hybrid: bool
) -> "list[Hit]":
    """Returns the hits of a text, or of an image in its place."""
    from trainer.retrieval.fusion import FUSED_DOCUMENTS as DEPTH

    if reference is None:
        hits = searcher.search([text], k)[0]
    else:
        if hybrid:
            names = ", ".join(part.index.folder.name for part in searcher.views)
            terminal.tell(f"an image is compared with views of images alone: {names}")
        hits = searcher.search_by_image(reference, k)
    if searcher.is_combined and DEPTH <= len(hits) < min(k, searcher.count):
        terminal.tell(f"{len(hits)} hits: the first {DEPTH} of each view are combined")
    return hits


def _print(hits: "list[Hit]", explanation: "Explanation", as_json: bool) -> None:
    if as_json:
        print(json.dumps(_as_json(hits, explanation), indent=2))
        return
    _show(hits)
    if explanation:
        _show_explanation(explanation)


def _check_question(question: str | None, image: Path | None) -> tuple[str, str | None]:
    """Returns the text of the question, and the reference of an image in its place.

    Raises BadData as `check_words` does, and for an image that cannot be decoded; a usage error for
    both or neither.
    """
    from trainer.images.reference import read_query_image

    if (question is None) == (image is None):
        raise typer.BadParameter("give QUESTION in words, or --image FILE; one of the two")
    if image is not None:
        return "", read_query_image(image)
    text = question or ""
    questions.check_words(text)
    return text, None


def _open_chosen(
    index: Path,
    router: Path,
    question: str,
    cost: float | None,
    reranker: str | None,
    rerank_depth: int,
) -> "Searcher":
    """Opens the routes that a router chooses for a question, or for any image if it is empty."""
    from trainer.routing.router import Router
    from trainer.routing.search import open_image_routes, open_route

    opened_router = Router.open(router)
    routes = opened_router.settings.routes
    if not question:
        image_routes = opened_router.settings.checked_image_routes
        searcher = open_image_routes(index, routes, image_routes)
        terminal.tell(f"the router asks {' + '.join(image_routes)}, as for any image")
        return searcher
    (choice,) = opened_router.choose([question], 0.5 if cost is None else cost).tolist()
    searcher, name = open_route(index, routes, choice, reranker, rerank_depth)
    terminal.tell(f"the router asks {name}")
    return searcher


def _view_weights(weights: str | None) -> dict[str, float] | None:
    from trainer.retrieval.indexes.views import parse_weights

    return None if weights is None else parse_weights(weights)


def _as_json(hits: "list[Hit]", explanation: "Explanation") -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for rank, hit in enumerate(hits, 1):
        entry = {"rank": rank, "score": round(hit.score, 6), **hit.document.fields()}
        if hit.first_score is not None:
            entry |= {"first_rank": hit.first_rank, "first_score": round(hit.first_score, 6)}
        entries.append(entry)
    if explanation:
        entries[0]["matches"] = [asdict(part) for part in explanation]
    return entries


def _show(hits: "list[Hit]") -> None:
    """Prints two lines per hit: rank, score, id and title, and then the beginning of the text; for
    an image with a path, the whole path too, however long.

    Everything from the corpus is escaped.
    """
    from rich.console import Console
    from rich.text import Text

    from trainer.storage.visible import visible

    console = Console(highlight=False)
    for rank, hit in enumerate(hits, 1):
        document = hit.document
        texts = (" ".join(part[:1000].split()) for part in (document.title, document.text))
        title, *details = [*filter(None, texts), ""]
        remark = "" if hit.first_score is None else f"was {hit.first_rank}, {hit.first_score:.3f}"
        line = Text.assemble(
            f"{rank:>3}  {hit.score:.3f}  ",
            (f"{remark:<14}  " if remark else "", "dim"),
            (visible(hit.document.id, 40), "bold"),
            f"  {visible(title, 120)}",
        )
        more_lines = [Text(f"{'':12}{visible(detail, 120)}", "dim") for detail in details if detail]
        for part in (line, *more_lines):
            console.print(part, no_wrap=True, overflow="ellipsis")
        if document.image:
            console.print(Text(f"{'':12}{visible(document.image)}", "dim"), soft_wrap=True)


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
