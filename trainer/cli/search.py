"""`nearfar search`: prints the documents of an index that answer a question."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli import terminal
from trainer.cli.options import shared

if TYPE_CHECKING:
    from trainer.retrieval.indexes.index import Hit
    from trainer.retrieval.token_index.explain import Match


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
            "late-interaction models only: for each token of the question, print the token of the"
            " best document that it matched"
        ),
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
) -> None:
    """Print the documents of an index that best answer a question, best first."""
    from trainer.errors import BadData
    from trainer.retrieval.indexes.searcher import Searcher

    if not question.strip():
        raise BadData("the question is blank; write the text to search for")
    searcher = Searcher.open(index, model=model, reranker=rerank, rerank_depth=rerank_depth)
    if explain:
        searcher.check_explains()
    (hits,) = searcher.search([question], k)
    matches = searcher.explain(question, hits[0]) if explain and hits else []
    if not hits:
        terminal.tell(f"{index} contains no documents; add some with `nearfar add`")
    if as_json:
        print(json.dumps(_as_json(hits, matches), indent=2))
        return
    _show(hits)
    if matches:
        _show_matches(matches)


def _as_json(hits: "list[Hit]", matches: "list[Match]") -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for rank, hit in enumerate(hits, 1):
        entry = {"rank": rank, "score": round(hit.score, 6), **asdict(hit.document)}
        if hit.first_score is not None:
            entry |= {"first_rank": hit.first_rank, "first_score": round(hit.first_score, 6)}
        entries.append(entry)
    if matches:
        entries[0]["matches"] = [asdict(match) for match in matches]
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


def _show_matches(matches: "list[Match]") -> None:
    """Prints one line per token of the question, and one line for all tokens of query expansion."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from trainer.storage.visible import visible

    table = Table("question", "first document", "similarity", box=None, header_style="dim")
    table.columns[2].justify = "right"
    for match in matches:
        if not match.filling:
            table.add_row(
                *(Text(visible(token, 40)) for token in (match.query_token, match.document_token)),
                f"{match.similarity:.3f}",
            )
    filling = [match.similarity for match in matches if match.filling]
    if filling:
        table.add_row(Text(f"{len(filling)} expansion tokens", "dim"), "", f"{sum(filling):.3f}")
    table.add_row(Text("total", "bold"), "", f"{sum(match.similarity for match in matches):.3f}")
    Console(highlight=False).print(table)
