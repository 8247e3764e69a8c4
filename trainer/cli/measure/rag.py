"""`nearfar rag`: retrieval judged by the answers."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import terminal
from trainer.cli.options import endpoints, shared

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help=(
            "questions with answers: a folder in BEIR layout whose queries have a field `answers`,"
            " or a table with `question` and `answers` (then with --corpus)"
        ),
        show_default=False,
    ),
]
Systems = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SYSTEM",
        help=(
            "each is compared with the first: a model, bm25, index:FOLDER, run:FILE or hybrid:A+B,"
            " as for `nearfar evaluate`"
        ),
        show_default=False,
    ),
]
IndexFolder = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="FOLDER",
        help="also measure the search of this index",
        show_default=False,
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="FILE",
        help="the documents to search, if DATA is a table: a file as for `nearfar index`",
        show_default=False,
    ),
]
Reader = Annotated[
    str | None, endpoints.url("--reader", "let a language model answer from the passages")
]
ReaderModel = Annotated[str | None, endpoints.model("--reader-model")]
Passages = Annotated[
    int, typer.Option("--passages", min=1, metavar="N", help="passages that the reader gets")
]
MaxQuestions = Annotated[
    int | None,
    typer.Option(
        "--max-questions",
        min=1,
        metavar="N",
        help="measure N questions, chosen by a hash of their text (default: all)",
        show_default=False,
    ),
]
Folder = Annotated[
    Path,
    typer.Option(
        "-o",
        "--folder",
        metavar="FOLDER",
        help="answers of the reader are stored here, and the result as rag.json",
    ),
]
Wrong = Annotated[
    int,
    typer.Option("--wrong", min=0, metavar="N", help="print N wrong answers of the last system"),
]


def rag(
    data: Data,
    systems: Systems = None,
    index: IndexFolder = None,
    corpus: Corpus = None,
    split: shared.SplitName = "test",
    reader: Reader = None,
    reader_model: ReaderModel = None,
    passages: Passages = 5,
    max_questions: MaxQuestions = None,
    parallel: endpoints.Parallel = 4,
    timeout: endpoints.Timeout = 60.0,
    folder: Folder = Path("rag"),
    wrong: Wrong = 10,
) -> None:
    """Measure how often the first passages contain the answer and, with a reader, how often its
    answer is right: before and after, with paired tests.
    """
    with terminal.loading_libraries():
        from trainer.evaluation.rag.run import RagSettings, run_rag
        from trainer.runs.run_model import model_of

    words = [*(systems or []), *([f"index:{index}"] if index is not None else [])]
    settings = RagSettings(
        split, corpus, max_questions, reader, reader_model, timeout, passages, parallel, wrong
    )
    for line in run_rag(data, words, folder, settings, model_of, terminal.tell):
        typer.echo(line)
