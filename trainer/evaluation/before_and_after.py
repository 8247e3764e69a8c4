"""The final test of a run: BM25 and the base model before training, the saved model after it.

All of them search the test queries. The models also search general collections, which show what
training has cost elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trainer.collectives import integers_of_first_rank, on_first_rank
from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.evaluate import evaluate_bm25
from trainer.evaluation.evaluation_file import read_evaluation, write_evaluation
from trainer.evaluation.results import (
    Evaluation,
    Selection,
    SystemResult,
    compare,
    compare_collections,
)
from trainer.progress import phase

Measure = Callable[[RetrievalSet], SystemResult]
"""Measures one model on a set of judged queries."""


def measure_before(
    sets: Sequence[RetrievalSet], measure_base: Measure | None, path: Path
) -> Evaluation:
    """Measures BM25 on the test queries, and the base model on these and on general collections.
    BM25 cannot search images.

    `sets` are the test queries, then the general collections. `measure_base` is None if the model
    is new, so that there is nothing to measure. The result is written to `path`. If the file
    exists, as in a continued run, it is read.
    """
    (is_measured,) = integers_of_first_rank(lambda: [path.exists()])
    if not is_measured:
        test, *general = sets
        systems = []
        if not test.has_images:
            with phase("BM25 on test queries", kind="BM25"):
                bm25 = on_first_rank(lambda: evaluate_bm25(test))
            systems = [] if bm25 is None else [bm25]
        collections = []
        if measure_base is not None:
            systems.append(measure_base(test))
            collections = [(collection, [measure_base(collection)]) for collection in general]

        def write() -> None:
            evaluation = compare(test, "test", systems)
            write_evaluation(replace(evaluation, general=compare_collections(collections)), path)

        on_first_rank(write)
    # Read also now, so that a continued run compares the same rounded values.
    return read_evaluation(path)


def measure_after(
    baselines: Evaluation,
    sets: Sequence[RetrievalSet],
    measure_tuned: Measure | None,
    count_leaks: Callable[[RetrievalSet], int],
    selection: Selection,
    path: Path,
) -> Evaluation | None:
    """Measures the saved model, compares it, and writes `evaluation.json` to `path`.

    `baselines` are what `measure_before` returned. `measure_tuned` is None if the saved model is
    the base model, which has been measured. `count_leaks` returns how many queries of a set are
    also training queries. None on all ranks but the first.
    """
    base_results = [collection.systems for collection in baselines.general]
    results = [baselines.systems, *(base_results or [()] * len(sets[1:]))]
    if measure_tuned is not None:
        results = [
            (*systems, measure_tuned(judged_set))
            for judged_set, systems in zip(sets, results, strict=True)
        ]

    def write() -> Evaluation:
        leaks = [*map(count_leaks, sets)]
        collections = compare_collections([*zip(sets, results, strict=True)][1:])
        evaluation = replace(
            compare(sets[0], "test", results[0], leaked_queries=leaks[0], selection=selection),
            general=tuple(
                replace(collection, leaked_queries=count)
                for collection, count in zip(collections, leaks[1:], strict=True)
            ),
        )
        write_evaluation(evaluation, path)
        return evaluation

    return on_first_rank(write)
