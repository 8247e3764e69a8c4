"""`nearfar evaluate`: compares models on judged queries."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli import terminal
from trainer.cli.options import shared

if TYPE_CHECKING:
    from trainer.evaluation.evaluate_models import ModelComparison


Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="folders or names of models, or run folders; each is compared with the first",
        show_default=False,
    ),
]
JudgedQueries = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help=(
            "judged queries: a folder in BEIR layout, a data file or a hub data set (default: the"
            " test set of the first run folder)"
        ),
        show_default=False,
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="FILE",
        help=(
            "also search these documents: a file as for `nearfar index`, or a folder in BEIR"
            " layout; without it, only the documents of SOURCE are searched"
        ),
        show_default=False,
    ),
]
MaxQueries = Annotated[
    int | None,
    typer.Option(
        "--max-queries",
        min=1,
        metavar="N",
        help="measure N queries, chosen by a hash of their text (default: all)",
        show_default=False,
    ),
]
Bm25 = Annotated[
    bool, typer.Option("--bm25/--no-bm25", help="also measure BM25, a search by words")
]
IndexFolder = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="FOLDER",
        help="also measure search with this index of the corpus; give only its own MODEL",
        show_default=False,
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="also write all measurements to this JSON file",
        show_default=False,
    ),
]
Examples = Annotated[
    int, typer.Option("--examples", min=0, metavar="N", help="print N example searches")
]


def evaluate(
    models: Models,
    data: JudgedQueries = None,
    corpus: Corpus = None,
    split: shared.SplitName = "test",
    column: shared.ColumnNames = None,
    max_queries: MaxQueries = None,
    bm25: Bm25 = True,
    index: IndexFolder = None,
    rerank: shared.Reranker = None,
    rerank_depth: shared.RerankDepth = 100,
    out: OutFile = None,
    examples: Examples = 3,
    dimensions: shared.Dimensions = None,
    layers: shared.Layers = None,
    precision: shared.PrecisionName = "auto",
) -> None:
    """Measure models on judged queries, and compare each of them and BM25 with the first one by a
    paired test.
    """
    _check_out(out)
    with terminal.loading_libraries():
        from trainer.evaluation.evaluate_models import evaluate_models
        from trainer.evaluation.evaluation_file import write_evaluation

    models, data, corpus, columns = _inputs(models, data, corpus, shared.columns_of(column))
    comparison = evaluate_models(
        models,
        data,
        split=split,
        columns=columns,
        corpus=corpus,
        max_queries=max_queries,
        bm25=bm25,
        index=index,
        reranker=rerank,
        rerank_depth=rerank_depth,
        layers=layers,
        dimensions=dimensions,
        precision=precision,
        tell=terminal.tell,
    )
    if out is not None:
        write_evaluation(comparison.evaluation, out)
    _show(comparison, examples)


def _inputs(
    models: list[str], data: str | None, corpus: str | None, columns: dict[str, str]
) -> tuple[list[str], str, str | None, dict[str, str]]:
    """Returns models, judged queries, corpus and columns, with what the recipe of a run adds.

    Options count more than the recipe.
    """
    from trainer.runs.run_model import judged_queries_of, model_of

    if data is None:
        queries = judged_queries_of(models)
        data, corpus = queries.source, corpus or queries.corpus
        columns = {**queries.columns, **columns}
        terminal.tell(f"no --data: measuring on {data}, the test set of {queries.run}")
    return [model_of(model) for model in models], data, corpus, columns


def _check_out(out: Path | None) -> None:
    from trainer.errors import BadRecipe

    if out is not None and not out.absolute().parent.is_dir():
        raise BadRecipe(
            f"--out {out}: the folder {out.absolute().parent} does not exist; create it first"
        )


def _show(comparison: "ModelComparison", examples: int) -> None:
    from rich.console import Console

    from trainer.evaluation.table import comparison_lines, comparison_table, search_examples

    console, systems = Console(highlight=False), comparison.evaluation.systems
    console.print(comparison_table(comparison.evaluation))
    for line in comparison_lines(comparison.evaluation):
        console.print(line)
    if comparison.evaluation.limitation:
        console.print("Name a file of all documents with --corpus.")
    if examples and len(systems) > 1:
        console.print(search_examples(comparison.judged_set, *systems[-2:], count=examples))
