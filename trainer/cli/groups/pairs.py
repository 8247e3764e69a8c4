"""`nearfar data pairs`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.cli.options import endpoints, shared

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help=(
            "folders or files of Markdown, reStructuredText, HTML, plain text or Python; tables"
            " (CSV, JSON Lines, ...) of documents or of tickets and chats; or a folder in BEIR"
            " layout, of which only the corpus is read"
        ),
        show_default=False,
    ),
]
Folder = Annotated[
    Path,
    typer.Option(
        "-o", "--folder", metavar="FOLDER", help="the data set is written here", show_default=False
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="KIND",
        help=(
            "make only pairs of this kind: heading, sentence, definition, docstring, resolution,"
            " thread, question; may be repeated (default: all)"
        ),
        show_default=False,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help=(
            "tables: name the column of a role (id, title, text, question, answer, thread) if it"
            " is not recognized, e.g. --column answer=solved_by; may be repeated"
        ),
        show_default=False,
    ),
]
PassageWords = Annotated[
    int,
    typer.Option(
        "--passage-words", min=20, metavar="N", help="split sections into passages of at most N"
    ),
]
DevShare = Annotated[
    float, typer.Option("--dev", metavar="SHARE", help="share of the queries for validation")
]
TestShare = Annotated[
    float, typer.Option("--test", metavar="SHARE", help="share of the queries for the test")
]
Replace = Annotated[
    bool, typer.Option("--replace", help="replace a data set that is in FOLDER already")
]

Endpoint = Annotated[
    str | None, endpoints.url("--endpoint", "let a language model write questions")
]
EndpointModel = Annotated[str | None, endpoints.model("--model")]
QuestionCount = Annotated[
    int, typer.Option("--questions", min=1, metavar="N", help="questions per passage to ask for")
]
MaxPassages = Annotated[
    int | None,
    typer.Option(
        "--max-prompts",
        min=1,
        metavar="N",
        help="ask about at most N passages, chosen by hash (default: all)",
        show_default=False,
    ),
]
RoundTrip = Annotated[
    str,
    typer.Option(
        "--round-trip",
        metavar="SEARCH",
        help="use a question only if this finds its passage again: bm25, or a model",
    ),
]
FoundWithin = Annotated[
    int,
    typer.Option(
        "--found-within", min=1, metavar="K", help="the round trip searches the first K passages"
    ),
]


def pairs(
    sources: Sources,
    folder: Folder,
    kind: Kinds = None,
    column: Columns = None,
    passage_words: PassageWords = 180,
    dev: DevShare = 0.1,
    test: TestShare = 0.1,
    max_bad_rows_ratio: shared.MaxBadRowsRatio = 0.001,
    endpoint: Endpoint = None,
    model: EndpointModel = None,
    questions: QuestionCount = 2,
    max_prompts: MaxPassages = None,
    round_trip: RoundTrip = "bm25",
    found_within: FoundWithin = 10,
    parallel: endpoints.Parallel = 4,
    timeout: endpoints.Timeout = 60.0,
    replace: Replace = False,
) -> None:
    """Make training pairs from documents that have no questions, and write a folder in BEIR layout.

    All pairs of a document are in one split: train, dev or test. The same documents give the same
    files. Answers of an endpoint are stored in FOLDER, so the same command continues.
    """
    from trainer.data.pairs.candidates import KINDS
    from trainer.data.pairs.write import PairRules, write_pairs
    from trainer.data.prepare.split import SplitRules

    writer = None
    if endpoint is not None:
        rules = (questions, max_prompts, found_within, parallel)
        writer = _question_writer(endpoint, model, folder, timeout, round_trip, rules)
    result = write_pairs(
        sources,
        folder,
        PairRules(tuple(kind or KINDS), passage_words, SplitRules(dev, test)),
        columns=shared.columns_of(column),
        max_bad_rows_ratio=max_bad_rows_ratio,
        write_questions=writer,
        replace=replace,
    )
    for line in result.lines:
        typer.echo(line)
    typer.echo(f"{folder}: written; train on it with data.train={folder}")


def _question_writer(
    endpoint: str,
    model: str | None,
    folder: Path,
    timeout: float,
    round_trip: str,
    rules: tuple[int, int | None, int, int],
) -> Any:
    from functools import partial

    from trainer.data.pairs.questions import QuestionRules, question_writer
    from trainer.evaluation.round_trip import first_documents

    search = partial(first_documents, model=None if round_trip == "bm25" else round_trip)
    return question_writer(endpoint, model, folder, timeout, QuestionRules(*rules), search)
