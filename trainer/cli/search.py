"""`nearfar search`: the documents of an index that answer a question."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trainer.retrieval.index import Hit


def search(
    index: Annotated[Path, typer.Argument(help="folder that `nearfar index` made", show_default=False)],
    question: Annotated[str, typer.Argument(help="what is looked for", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="documents to show")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="print the hits as one JSON list")] = False,
    model: Annotated[str | None, typer.Option(help="where the index's model is now, if it was moved", show_default=False)] = None,
) -> None:
    """Show the documents nearest to a question, best first."""
    import json
    from dataclasses import asdict

    from trainer.errors import BadData
    from trainer.models.dense import read_encoder
    from trainer.retrieval.encode import encode_for_search
    from trainer.retrieval.index import Index

    if not question.strip():
        raise BadData("the question is blank; say what to look for")
    opened = Index.open(index)
    encoder = read_encoder(model or opened.manifest.model)
    opened.check_encoder(encoder)
    hits = opened.hits(encode_for_search(encoder, [question], "query")[0], k)
    if as_json:
        print(json.dumps([{"rank": rank, "score": round(hit.score, 6)} | asdict(hit.document) for rank, hit in enumerate(hits, 1)], indent=2))
    else:
        _show(hits)


def _show(hits: "list[Hit]") -> None:
    """One line a hit for rank, score, id and title, one for the beginning of the text; everything from the corpus escaped."""
    from rich.console import Console
    from rich.text import Text

    from trainer.data.visible import visible

    console = Console(highlight=False)
    for rank, hit in enumerate(hits, 1):
        title, text = (" ".join(part[:1000].split()) for part in (hit.document.title, hit.document.text))
        first = Text.assemble(f"{rank:>3}  {hit.score:.3f}  ", (visible(hit.document.id, 40), "bold"), f"  {visible(title or text, 120)}")
        console.print(first, no_wrap=True, overflow="ellipsis")
        if title and text:
            console.print(Text(f"            {visible(text, 120)}", "dim"), no_wrap=True, overflow="ellipsis")
