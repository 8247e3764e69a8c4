"""`nearfar evaluate`: compares systems on judged queries."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli import terminal
from trainer.cli.options import shared, tracking

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.data.retrieval_set import RetrievalSet
    from trainer.evaluation.evaluate_systems import SystemComparison
    from trainer.evaluation.judged_data import JudgedData
    from trainer.evaluation.systems.open import SystemSettings
    from trainer.evaluation.systems.system import System
    from trainer.recipe.schema.trackers import Tracker


Systems = Annotated[
    list[str],
    typer.Argument(
        metavar="SYSTEM",
        help=(
            "each is compared with the first: a model (folder, name or run folder), bm25,"
            " index:FOLDER, run:FILE (a TREC run), hybrid:A+B (reciprocal ranks), weighted:A+B"
            " (weights chosen on dev) or rerank:A+RERANKER"
        ),
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
LearnedViews = Annotated[
    str | None,
    typer.Option(
        "--learn-weights",
        metavar="VIEW,...",
        help=(
            "first choose weights of these views on the dev queries, e.g. dense,sparse or"
            " dense,bm25, and keep them in the folder of views among the systems, where `nearfar"
            " search --hybrid` finds them"
        ),
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
MtebTask = Annotated[
    str | None,
    typer.Option(
        "--mteb",
        metavar="TASK",
        help="in place of --data: a retrieval task of mteb (TASK, TASK:SUBSET, TASK:SUBSET:SPLIT)",
        show_default=False,
    ),
]
MtebResults = Annotated[
    Path | None,
    typer.Option(
        "--mteb-results",
        metavar="FOLDER",
        help="also let mteb measure each system, and write its results files to this folder",
        show_default=False,
    ),
]
RunsFolder = Annotated[
    Path | None,
    typer.Option(
        "--save-runs",
        metavar="FOLDER",
        help="also write the ranking of each system, and the judgements, as trec_eval reads them",
        show_default=False,
    ),
]
Examples = Annotated[
    int, typer.Option("--examples", min=0, metavar="N", help="print N example searches")
]


def evaluate(
    systems: Systems,
    data: JudgedQueries = None,
    corpus: Corpus = None,
    split: shared.SplitName = "test",
    column: shared.ColumnNames = None,
    max_queries: MaxQueries = None,
    bm25: Bm25 = True,
    index: IndexFolder = None,
    rerank: shared.Reranker = None,
    rerank_depth: shared.RerankDepth = 100,
    learn_weights: LearnedViews = None,
    out: OutFile = None,
    save_runs: RunsFolder = None,
    mteb: MtebTask = None,
    mteb_results: MtebResults = None,
    examples: Examples = 3,
    dimensions: shared.Dimensions = None,
    layers: shared.Layers = None,
    precision: shared.PrecisionName = "auto",
    tracker: tracking.Trackers = None,
) -> None:
    """Measure systems on judged queries, and compare each with the first one by a paired test."""
    trackers = _check_places(out, save_runs, tracker or [])
    with terminal.loading_libraries():
        from trainer.evaluation.evaluate_systems import evaluate_systems
        from trainer.evaluation.systems.open import SystemSettings
        from trainer.runs.run_model import model_of

    judged_data = _judged_data(systems, mteb, data, corpus, split, column, max_queries)
    settings = SystemSettings(precision, layers, dimensions, rerank_depth)
    _learn(systems, learn_weights, judged_data, settings)
    comparison = evaluate_systems(
        systems,
        judged_data,
        bm25=bm25,
        index=index,
        reranker=rerank,
        settings=settings,
        find_model=model_of,
        on_measured=_mteb_writer(mteb_results, judged_data),
        tell=terminal.tell,
    )
    _show(comparison, examples)  # first: no full disk may take the result away
    _finish(comparison, trackers, out, save_runs)


def _judged_data(
    systems: list[str],
    mteb: str | None,
    data: str | None,
    corpus: str | None,
    split: shared.Split,
    column: list[str] | None,
    max_queries: int | None,
) -> "JudgedData":
    """Returns the judged queries; without `data` or a task, those that the recipe of a run names.

    Options count more than the recipe.
    """
    from trainer.errors import BadRecipe
    from trainer.evaluation.judged_data import LocalData
    from trainer.evaluation.systems.names import parse_system
    from trainer.runs.run_model import judged_queries_of

    columns = shared.columns_of(column, data)
    if mteb is not None:
        from trainer.evaluation.mteb.tasks import MtebData

        if data or corpus:
            raise BadRecipe(
                "--mteb has its own queries and documents; leave --data and --corpus out"
            )
        return MtebData.find(mteb, split, max_queries)
    if data is None:
        names = [name for system in systems for name in parse_system(system).single_systems]
        queries = judged_queries_of([name.value for name in names if name.kind == "model"])
        terminal.tell(f"no --data: measuring on {queries.source}, the test set of {queries.run}")
        data, corpus = queries.source, corpus or queries.corpus
        columns = {**queries.columns, **columns}
    return LocalData(data, split, columns, corpus, max_queries)


def _learn(
    systems: list[str], views: str | None, data: "JudgedData", settings: "SystemSettings"
) -> None:
    """Learns and keeps the weights of these views, if there are any."""
    if views is None:
        return
    from trainer.evaluation.systems.learned import learn_view_weights

    terminal.tell("learning weights on the dev queries")
    names = [view.strip() for view in views.split(",")]
    terminal.tell(learn_view_weights(systems, names, data, settings))


def _mteb_writer(
    folder: Path | None, data: "JudgedData"
) -> "Callable[[System, RetrievalSet], None]":
    """Returns the function that lets mteb measure a system, or one that does nothing."""
    if folder is None:
        return lambda system, judged_set: None
    from trainer.evaluation.mteb.tasks import results_writer

    return results_writer(folder, data, terminal.tell)


def _finish(
    comparison: "SystemComparison",
    trackers: "Sequence[Tracker]",
    out: Path | None,
    save_runs: Path | None,
) -> None:
    """Writes the results, also to trackers. Raises SystemsFailed if a system was not measured."""
    from trainer.evaluation.systems.failures import check_complete
    from trainer.tracking.jobs import log_evaluation

    evaluation = comparison.evaluation
    _write(comparison, out, save_runs)
    if trackers:
        log_evaluation(trackers, evaluation, out)
    check_complete(evaluation.failures)


def _write(comparison: "SystemComparison", out: Path | None, save_runs: Path | None) -> None:
    from trainer.evaluation.evaluation_file import write_evaluation

    if out is not None:
        write_evaluation(comparison.evaluation, out)
    if save_runs is not None:
        for path in comparison.write_runs(save_runs):
            terminal.tell(f"wrote {path}")


def _check_places(
    out: Path | None, save_runs: Path | None, tracker: list[str]
) -> "Sequence[Tracker]":
    """Checks before anything is computed that the results can be written. Returns the trackers."""
    from trainer.tracking.settings import read_trackers

    if out is not None:
        terminal.check_parent(out, "--out")
    if save_runs is not None:
        from trainer.evaluation.run_file import make_runs_folder

        make_runs_folder(save_runs)
    return read_trackers(tracker)


def _show(comparison: "SystemComparison", examples: int) -> None:
    from rich.console import Console

    from trainer.data.summary.limitations import limitation_advice
    from trainer.evaluation.table import comparison_lines, comparison_table, search_examples

    console, systems = Console(highlight=False), comparison.evaluation.systems
    for evaluation in filter(None, [comparison.evaluation, comparison.evaluation.image_queries]):
        console.print(comparison_table(evaluation, console.width))
        for line in comparison_lines(evaluation):
            console.print(line)
    if limitation := comparison.evaluation.limitation:
        console.print(limitation_advice(limitation, "--corpus"))
    if examples and len(systems) > 1:
        console.print(search_examples(comparison.judged_set, *systems[-2:], count=examples))
