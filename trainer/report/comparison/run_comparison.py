"""Several runs side by side: settings, figures, and paired tests on the same test queries."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.evaluation.results import (
    BASE,
    BM25,
    MAIN_METRIC,
    Comparison,
    Evaluation,
    Interval,
    SystemResult,
)
from trainer.evaluation.significance import detectable_difference, holm, paired_test
from trainer.report.read import Run, read_run
from trainer.report.text import duration, metric_name, setting_text
from trainer.report.training import training

METRICS = (MAIN_METRIC, "mrr@10", "recall@100")
"""The metrics that are shown."""
ABSENT = "–"
_FILES = ("environment.json", "log.jsonl", "status.json", "evaluation.json")


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run, with a name that no other run of the comparison has."""

    name: str
    run: Run
    model: SystemResult | None
    """The results of the finished model; None without test queries."""
    test_set: int | None
    """The number of its test set; runs with the same number have the same test queries."""

    def interval(self, metric: str) -> Interval | None:
        """Returns the mean and interval of a metric of the finished model."""
        return self.model.interval(metric) if self.model and metric in self.model.metrics else None

    def rival(self, name: str) -> float | None:
        """Returns the main metric of the base model or of BM25."""
        evaluation = self.run.evaluation
        systems = evaluation.systems if evaluation is not None else ()
        means = [
            system.mean()
            for system in systems
            if system.name == name and MAIN_METRIC in system.metrics
        ]
        return means[0] if means else None


@dataclass(frozen=True, slots=True)
class RunComparison:
    """The runs, and what distinguishes them."""

    runs: list[ComparedRun]
    settings: list[tuple[str, list[str]]]
    """Name and value per run of each key of the recipe that is not equal in all runs."""
    facts: list[tuple[str, list[str]]]
    """Name and value per run of figures, time and hardware, as text."""
    tests: list[Comparison]
    """The paired tests of runs with the same test queries, with Holm's correction over all."""
    warnings: list[str]
    """Which runs cannot be compared, and what is missing."""

    @property
    def headline(self) -> str:
        """Which run is the best, and from which ones it cannot be told apart."""
        means = {
            column.name: column.model.mean()
            for column in self.runs
            if column.model is not None and column.test_set == 0
        }
        if len(means) < len(self.runs):
            return "The runs were not all measured on the same test queries."
        best = max(means, key=means.__getitem__)
        rivals = [
            test.system if test.baseline == best else test.baseline
            for test in self.tests
            if best in (test.baseline, test.system) and not test.is_proven
        ]
        score = f"{best} has the highest test {metric_name(MAIN_METRIC)}, {means[best]:.3f}"
        if not rivals:
            weaker = " and ".join(name for name in means if name != best)
            return f"{score}, and is proven better than {weaker}."
        return f"{score}, but cannot be told apart from {', '.join(rivals)}."


def compare_runs(folders: Sequence[Path]) -> RunComparison:
    """Reads and compares run folders.

    Raises BadFolder for fewer than two folders, for the same one twice, and for one without a run.
    """
    places = [Path(folder).resolve() for folder in folders]
    if len(set(places)) < max(2, len(places)):
        problem = "one run folder is twice here" if len(places) > 1 else "one run was given"
        raise BadFolder(
            f"{problem}; give two or more different ones, such as `nearfar compare runs/a runs/b`"
        )
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    runs = _compared_runs(names, [read_run(Path(folder)) for folder in folders])
    return RunComparison(
        runs, _settings(runs), list(_facts(runs)), _tests(runs), list(_warnings(runs))
    )


def _compared_runs(names: Sequence[str], runs: Sequence[Run]) -> list[ComparedRun]:
    """Numbers the test sets in the order in which they occur."""
    sets: list[Evaluation] = []
    columns = []
    for name, run in zip(names, runs, strict=True):
        evaluation, number = run.evaluation, None
        if evaluation is not None and MAIN_METRIC in evaluation.systems[-1].metrics:
            number = next(
                (n for n, former in enumerate(sets) if _is_same(former, evaluation)), None
            )
            if number is None:
                number = len(sets)
                sets.append(evaluation)
        model = evaluation.systems[-1] if evaluation is not None and number is not None else None
        columns.append(ComparedRun(name, run, model, number))
    return columns


def _is_same(first: Evaluation, second: Evaluation) -> bool:
    """Returns whether two evaluations measured the same queries among the same documents.

    The file does not hold the judgements. BM25, which no run changes, has the same value for each
    query only if they are the same too.
    """
    values = [
        [
            system.metrics[MAIN_METRIC].tolist()
            for system in evaluation.systems
            if system.name == BM25 and MAIN_METRIC in system.metrics
        ]
        for evaluation in (first, second)
    ]
    return (
        first.systems[-1].query_ids == second.systems[-1].query_ids
        and (first.queries, first.documents) == (second.queries, second.documents)
        and (values[0] == values[1] or [] in values)
    )


def _settings(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    keys = [
        dict(_flat(column.run.recipe.model_dump(mode="json"))) if column.run.recipe else {}
        for column in runs
    ]
    names = dict.fromkeys(name for values in keys for name in values)
    rows = [(name, [values.get(name, ABSENT) for values in keys]) for name in names]
    return [
        (name, values)
        for name, values in rows
        if name not in ("name", "output") and len(set(values)) > 1
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", setting_text(value)


def _facts(runs: Sequence[ComparedRun]) -> Iterator[tuple[str, list[str]]]:
    for metric in METRICS:
        intervals = [column.interval(metric) for column in runs]
        yield (
            f"test {metric_name(metric)}",
            [
                f"{values.mean:.3f} [{values.low:.3f}, {values.high:.3f}]" if values else ABSENT
                for values in intervals
            ],
        )
    for name, title in ((BASE, "base model"), (BM25, "BM25")):
        means = [column.rival(name) for column in runs]
        yield title, [ABSENT if mean is None else f"{mean:.3f}" for mean in means]
    sections = [training(column.run) for column in runs]
    yield "best validation", [_best_validation(column.run) for column in runs]
    yield "training pairs", [_training_pairs(column.run.environment) for column in runs]
    yield "steps", [f"{section.steps:,}" for section in sections]
    yield "time", [_time(column.run) for column in runs]
    yield (
        "pairs per second",
        [
            ABSENT if section.pairs_per_second is None else f"{section.pairs_per_second:,.0f}"
            for section in sections
        ],
    )
    yield "hardware", [_hardware(column.run.environment) for column in runs]


def _best_validation(run: Run) -> str:
    points = zip(*run.series(f"validation/{MAIN_METRIC}"), strict=True)
    scores = [(score, -step) for step, score in points if score is not None]
    if not scores:
        return ABSENT
    score, step = max(scores)
    return f"{score:.3f} at step {-step:,}"


def _training_pairs(environment: Mapping[str, Any]) -> str:
    data = environment.get("data")
    pairs = data.get("training_rows") if isinstance(data, dict) else None
    return f"{pairs:,}" if isinstance(pairs, int) else ABSENT


def _time(run: Run) -> str:
    seconds = run.status.get("seconds")
    return duration(float(seconds)) if isinstance(seconds, int | float) else ABSENT


def _hardware(environment: Mapping[str, Any]) -> str:
    gpus = environment.get("gpus")
    if isinstance(gpus, list) and gpus:
        return f"{len(gpus)} x {gpus[0]}"
    parts = (environment.get("cores"), environment.get("processor"))
    return " x ".join(str(part) for part in parts if part) or ABSENT


def _tests(runs: Sequence[ComparedRun]) -> list[Comparison]:
    pairs = [
        (first, second)
        for first, second in combinations(runs, 2)
        if first.test_set is not None and first.test_set == second.test_set
    ]
    values = [
        (first.model.metrics[MAIN_METRIC], second.model.metrics[MAIN_METRIC])
        for first, second in pairs
        if first.model is not None and second.model is not None
    ]
    tests = [paired_test(*pair) for pair in values]
    corrected_p_values = holm([test.p_value for test in tests])
    return [
        Comparison(
            first.name,
            second.name,
            MAIN_METRIC,
            test,
            p_value,
            detectable_difference(*pair, tests=len(tests)),
        )
        for (first, second), test, p_value, pair in zip(
            pairs, tests, corrected_p_values, values, strict=True
        )
    ]


def _warnings(runs: Sequence[ComparedRun]) -> Iterator[str]:
    first = next((column for column in runs if column.test_set == 0), None)
    for column in runs:
        if column.test_set and first is not None:
            yield (
                f"{column.name} was measured on {_set_name(column)}, and {first.name} on"
                f" {_set_name(first)}: their queries, documents or judgements differ, so no test"
                " compares them"
            )
        missing = [name for name in _FILES if not (column.run.folder / name).is_file()]
        if missing:
            yield f"{column.name} has no {', '.join(missing)}, so it has gaps here"
        if column.run.recipe is None:
            yield (
                f"the recipe of {column.name} cannot be read by this version; its settings are"
                " not compared"
            )
        evaluation = column.run.evaluation
        if evaluation is not None and evaluation.limitation:
            yield f"the figures of {column.name} are too high: {evaluation.limitation}"


def _set_name(column: ComparedRun) -> str:
    evaluation = column.run.evaluation
    assert evaluation is not None  # it has a test set
    return (
        f"{evaluation.set_name} ({len(evaluation.queries):,} queries among"
        f" {evaluation.documents:,} documents)"
    )
