"""`nearfar search`: the documents of an index that answer a question."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli.index import model_of_index

if TYPE_CHECKING:
    from trainer.models.cross_encoder import CrossEncoder
    from trainer.retrieval.indexes.dense import Hit
    from trainer.retrieval.token_index.explain import Match


def search(
    index: Annotated[
        Path, typer.Argument(help="folder that `nearfar index` made", show_default=False)
    ],
    question: Annotated[str, typer.Argument(help="what is looked for", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="documents to show")] = 5,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="of a late-interaction model: which token of the best document each token met",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="print the hits as one JSON list, with --explain the matches inside the first",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="where the index's model is now, if it was moved", show_default=False),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="a cross-encoder that puts the first documents in a new order",
            show_default=False,
        ),
    ] = None,
    rerank_depth: Annotated[
        int, typer.Option(min=1, help="documents that the cross-encoder puts in order, -k at least")
    ] = 100,
) -> None:
    """Show the documents nearest to a question, best first."""
    import json
    import sys
    from dataclasses import asdict

    from trainer.errors import BadData, BadModel
    from trainer.models.cross_encoder import read_cross_encoder
    from trainer.retrieval.indexes.open_index import hits, open_index
    from trainer.retrieval.token_index.index import LateIndex

    if not question.strip():
        raise BadData("the question is blank; say what to look for")
    opened = open_index(index)
    if explain and not isinstance(opened, LateIndex):
        raise BadModel(
            f"{index} holds one vector a document, so no token can be told from another; --explain"
            " wants a late-interaction model's index"
        )
    second = read_cross_encoder(rerank) if rerank is not None else None
    encoder = model_of_index(index, opened.manifest, model)
    (found,) = hits(opened, encoder, [question], k if second is None else max(k, rerank_depth))
    before: list[tuple[int, float]] = []
    if second is not None:
        found, before = _in_two_stages(second, question, found, k)
    matches: list[Match] = []
    if explain and found:
        from trainer.retrieval.token_index.explain import explain as matches_of

        matches = matches_of(encoder, question, found[0].document.whole)
    if not found:
        print(f"{index} has no document left; put some in with `nearfar add`", file=sys.stderr)
    if as_json:
        shown: list[dict[str, Any]] = [
            {"rank": rank, "score": round(hit.score, 6)} | asdict(hit.document)
            for rank, hit in enumerate(found, 1)
        ]
        for hit, (rank, score) in zip(shown, before, strict=False):
            hit |= {"first_rank": rank, "first_score": round(score, 6)}
        if matches:
            shown[0]["matches"] = [asdict(match) for match in matches]
        print(json.dumps(shown, indent=2))
        return
    _show(found, [f"was {rank}, {score:.3f}" for rank, score in before])
    if matches:
        _show_matches(matches)


def _in_two_stages(
    encoder: "CrossEncoder", question: str, found: "list[Hit]", k: int
) -> "tuple[list[Hit], list[tuple[int, float]]]":
    """The best k of what the index found in the cross-encoder's order, and the rank and score that
    the index gave each.
    """
    from dataclasses import replace

    from trainer.errors import BadData
    from trainer.retrieval.rerank import score_pairs

    if not found:
        raise BadData(
            "the index has no document to be put in order; add some, or search without --rerank"
        )
    scores = score_pairs(encoder, [(question, hit.document.whole) for hit in found]).tolist()
    order = sorted(range(len(found)), key=lambda place: -scores[place])[:k]
    return [replace(found[place], score=scores[place]) for place in order], [
        (place + 1, found[place].score) for place in order
    ]


def _show(hits: "list[Hit]", before: "list[str] | None" = None) -> None:
    """One line a hit for rank, score, id and title, one for the beginning of the text; everything
    from the corpus escaped. `before`: a remark each.
    """
    from rich.console import Console
    from rich.text import Text

    from trainer.storage.visible import visible

    console = Console(highlight=False)
    for rank, hit in enumerate(hits, 1):
        title, text = (
            " ".join(part[:1000].split()) for part in (hit.document.title, hit.document.text)
        )
        remark = (f"{before[rank - 1]:<14}  ", "dim") if before else ""
        first = Text.assemble(
            f"{rank:>3}  {hit.score:.3f}  ",
            remark,
            (visible(hit.document.id, 40), "bold"),
            f"  {visible(title or text, 120)}",
        )
        console.print(first, no_wrap=True, overflow="ellipsis")
        if title and text:
            console.print(
                Text(f"            {visible(text, 120)}", "dim"), no_wrap=True, overflow="ellipsis"
            )


def _show_matches(matches: "list[Match]") -> None:
    """A line a token of the question; those that only fill it up in one line."""
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
        table.add_row(Text(f"{len(filling)} tokens of filling", "dim"), "", f"{sum(filling):.3f}")
    table.add_row(Text("together", "bold"), "", f"{sum(match.similarity for match in matches):.3f}")
    Console(highlight=False).print(table)
