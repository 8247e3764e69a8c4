"""`nearfar select`: chooses a model for one's own data."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli import terminal
from trainer.cli.evaluate import Corpus, MaxQueries
from trainer.cli.options import shared

if TYPE_CHECKING:
    from trainer.evaluation.judged_data import LocalData
    from trainer.selection.select import ModelSelection

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="CANDIDATE...|FILE",
        help=(
            "systems as for `nearfar evaluate`, e.g. bm25 MODEL hybrid:MODEL+bm25, or a YAML file"
            " with a list `candidates` and a map `limits`"
        ),
        show_default=False,
    ),
]
JudgedQueries = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="judged queries: a folder in BEIR layout, a data file or a hub data set",
        show_default=False,
    ),
]
Halving = Annotated[
    bool,
    typer.Option(
        "--halving/--no-halving",
        help="drop the worse half on samples of queries and documents first",
    ),
]
OutFolder = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        metavar="FOLDER",
        help="also write selection.html and selection.json into this folder",
        show_default=False,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--probe",
        min=2,
        metavar="STEPS",
        help=(
            "also train each model that is measured on all queries for so many steps with LoRA, on"
            " the training split of --data; needs --out for the runs"
        ),
        show_default=False,
    ),
]


def select(
    candidates: Names,
    data: JudgedQueries,
    corpus: Corpus = None,
    split: shared.SplitName = "test",
    column: shared.ColumnNames = None,
    max_queries: MaxQueries = None,
    halving: Halving = True,
    probe: Steps = None,
    out: OutFolder = None,
    precision: shared.PrecisionName = "auto",
) -> None:
    """Choose a model for your data: measure what candidates find and what they cost.

    The result names the candidates that cannot be told apart from the best one, and recommends the
    quickest of them that keeps the limits.
    """
    if probe is not None and out is None:
        raise typer.BadParameter("--probe trains models; name a folder for their runs with --out")
    with terminal.loading_libraries():
        from trainer.evaluation.judged_data import LocalData
        from trainer.evaluation.systems.failures import check_complete
        from trainer.evaluation.systems.open import SystemSettings
        from trainer.runs.run_model import model_of
        from trainer.selection.candidates import read_candidates
        from trainer.selection.page import write_selection
        from trainer.selection.select import select as choose

    named_candidates, limits = read_candidates(candidates)
    judged_data = LocalData(data, split, shared.columns_of(column, data), corpus, max_queries)
    _check_possible(judged_data, out, probe)
    selection = choose(
        named_candidates,
        judged_data,
        limits,
        halving=halving,
        settings=SystemSettings(precision),
        find_model=model_of,
        tell=terminal.tell,
    )
    if probe is not None and out is not None:
        write_selection(selection, out)  # a probe takes long, and may fail
        selection = _probe(selection, judged_data, out, probe)
    _show(selection, out)
    check_complete(selection.failures)


def _check_possible(data: "LocalData", out: Path | None, probe: int | None) -> None:
    """Checks before anything is measured that the result can be written and models be trained."""
    from trainer.selection.page import check_folder
    from trainer.selection.probe import check_has_training_split

    if out is not None:
        check_folder(out)
    if probe is not None:
        check_has_training_split(data)


def _probe(
    selection: "ModelSelection", data: "LocalData", out: Path, steps: int
) -> "ModelSelection":
    from trainer.runs.run_model import model_of
    from trainer.selection.probe import probe_models

    measurements, tell = selection.measurements, terminal.tell
    probes = probe_models(measurements, data, out, steps, find_model=model_of, tell=tell)
    return replace(selection, probes=tuple(probes))


def _show(selection: "ModelSelection", out: Path | None) -> None:
    from rich.console import Console

    from trainer.selection.page import write_selection
    from trainer.selection.table import selection_lines, selection_table

    console = Console(highlight=False)
    console.print(selection_table(selection))
    for line in selection_lines(selection):
        console.print(line, markup=False)
    if out is not None:
        print(write_selection(selection, out))
