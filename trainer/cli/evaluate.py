"""`nearfar evaluate`: models side by side on judged queries."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainer.cli.index import model_of_index

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet
    from trainer.evaluation.results import Evaluation, SystemResult
    from trainer.models.cross_encoder import CrossEncoder
    from trainer.models.encoder import Encoder
    from trainer.retrieval.indexes.dense import Index
    from trainer.retrieval.token_index.index import LateIndex
    from trainer.retrieval.vectors.encode import Precision


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="folders or names; the first is the one in question",
            show_default=False,
        ),
    ],
    data: Annotated[
        str, typer.Option(help="folder in BEIR layout, or a data file", show_default=False)
    ],
    split: Annotated[
        Literal["train", "dev", "test"], typer.Option(help="of a BEIR folder or hub data set")
    ] = "test",
    column: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=NAME where a column is not recognised, e.g. --column query=title"),
    ] = None,
    max_queries: Annotated[
        int | None,
        typer.Option(min=1, help="take only so many queries, chosen by hash", show_default=False),
    ] = None,
    bm25: Annotated[bool, typer.Option(help="also measure search by words")] = True,
    index: Annotated[
        Path | None,
        typer.Option(
            help="also measure the one model by this index of the set's corpus", show_default=False
        ),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="also measure each model with this cross-encoder behind it",
            show_default=False,
        ),
    ] = None,
    rerank_depth: Annotated[
        int,
        typer.Option(min=1, help="documents of each query that the cross-encoder puts in order"),
    ] = 100,
    out: Annotated[
        Path | None,
        typer.Option(help="write everything measured to this JSON file", show_default=False),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="searches to show")] = 3,
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="use only the first so many numbers of each vector, as matryoshka trains them",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=(
                "use only the first so many layers, as matryoshka trains them; as many as --index"
                " was made with if not given"
            ),
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="auto: bf16 where the hardware has it"),
    ] = "auto",
) -> None:
    """Measure models on judged queries; each other model, and BM25, is compared with the first by a
    paired test.
    """
    from trainer.build import hardware
    from trainer.data.retrieval_set import read_retrieval_set
    from trainer.errors import BadRecipe
    from trainer.evaluation.by_index import check_fits
    from trainer.evaluation.evaluate import evaluate_bm25
    from trainer.evaluation.results import compare, write_evaluation
    from trainer.models.cross_encoder import read_cross_encoder
    from trainer.models.cut import read_cut
    from trainer.models.files.locate import locate
    from trainer.recipe import schema as recipe
    from trainer.retrieval.indexes.open_index import open_index

    if len(set(models)) < len(models):
        raise BadRecipe(f"a model is named twice: {', '.join(models)}; name each once")
    if index is not None and len(models) > 1:
        raise BadRecipe("an index is of one model; name that one alone beside --index")
    if out is not None and not out.absolute().parent.is_dir():
        raise BadRecipe(
            f"--out {out}: the folder {out.absolute().parent} does not exist; make it first"
        )
    for model in models:
        locate(model)
    columns = dict(pair.partition("=")[::2] for pair in column or ())
    if not all(columns.values()):
        raise BadRecipe("--column wants ROLE=NAME, e.g. --column query=title")
    machine = recipe.Machine(precision=precision)
    device, how = hardware.accelerator(machine), hardware.precision(machine)
    second = read_cross_encoder(rerank).to(device) if rerank is not None else None
    judged = read_retrieval_set(data, split, columns, max_queries)
    opened = open_index(index) if index is not None else None
    loaded = {}
    if opened is not None:
        loaded[models[0]] = model_of_index(
            opened.folder, opened.manifest, models[0], layers, dimensions
        ).to(device)
        layers = layers or opened.manifest.layers
        check_fits(loaded[models[0]], opened, judged)
    systems: list[SystemResult] = [evaluate_bm25(judged)] if bm25 else []
    for model in reversed(models):
        print(f"measuring {model}", file=sys.stderr, flush=True)
        cut = [
            f"{count} {what}"
            for count, what in ((layers, "layers"), (dimensions, "dimensions"))
            if count is not None
        ]
        name = f"{model} at {', '.join(cut)}" if cut else model
        systems += _measured(
            name,
            loaded.get(model) or read_cut(model, layers, dimensions).to(device),
            judged,
            how,
            opened,
            second,
            f" + {rerank}",
            rerank_depth,
        )
    evaluation = compare(judged, split, systems)
    if out is not None:
        write_evaluation(evaluation, out)
    _show(evaluation)
    if examples and len(systems) > 1:
        from rich.console import Console

        from trainer.evaluation.table import search_examples

        Console(highlight=False).print(search_examples(judged, *systems[-2:], count=examples))


def _measured(
    name: str,
    encoder: "Encoder",
    judged: "RetrievalSet",
    how: "Precision",
    index: "Index | LateIndex | None",
    second: "CrossEncoder | None",
    second_name: str,
    depth: int,
) -> "list[SystemResult]":
    """The model by exact search, by the index where there is one, and what was found last in the
    cross-encoder's order where there is one.
    """
    from trainer.evaluation.by_index import index_run
    from trainer.evaluation.evaluate import evaluate_run, rerank_run, retrieve

    k = max(101, depth if second is not None else 0)
    runs = {name: retrieve(encoder, judged, k, how)}
    if index is not None:
        runs[f"{name} by {index.folder.name}"] = index_run(encoder, index, judged, k, how)
    if second is not None:
        last = list(runs)[-1]
        print(
            f"re-ranking {depth} documents of each of {len(judged.queries):,} queries",
            file=sys.stderr,
            flush=True,
        )
        runs[last + second_name] = rerank_run(second, runs[last], judged, depth, how)
    return [evaluate_run(run, judged, of) for of, run in runs.items()]


def _show(evaluation: "Evaluation") -> None:
    from rich.console import Console

    from trainer.evaluation.table import comparison_lines, comparison_table

    console = Console(highlight=False)
    console.print(comparison_table(evaluation))
    for line in comparison_lines(evaluation):
        console.print(line)
