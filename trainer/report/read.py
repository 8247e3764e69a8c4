"""What a run folder says about itself, as the report needs it. Everything read here was possibly
written by strangers: see `trainer.report.markup`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.runtime.run_folder import read_log
from trainer.storage.locks import is_locked

MAIN_METRIC = "ndcg@10"


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over queries and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table."""

    name: str
    metrics: Mapping[str, Sequence[float]]
    summary: Mapping[str, Interval]
    top: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test of two systems."""

    before: str
    after: str
    metric: str
    difference: Interval
    p_value: float
    better: int
    equal: int
    worse: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`evaluation.json`; `queries` and `texts` are empty when the file holds no texts."""

    set: str
    split: str
    documents: int
    query_ids: Sequence[str]
    systems: Sequence[System]
    comparisons: Sequence[Comparison]
    queries: Mapping[str, str]
    texts: Mapping[str, str]

    @property
    def after(self) -> System:
        """The system in question: the last."""
        return self.systems[-1]

    @property
    def before(self) -> System | None:
        """What it is compared with: the last of the others, which is the base model where there is
        one.
        """
        return self.systems[-2] if len(self.systems) > 1 else None

    @property
    def main(self) -> Comparison | None:
        """The comparison of `before` with `after`."""
        pair = (self.before.name if self.before else None, self.after.name)
        return next((each for each in self.comparisons if (each.before, each.after) == pair), None)


@dataclass(frozen=True, slots=True)
class Change:
    """One query before and after. A rank is that of the first right document, None beyond the tenth
    place.
    """

    query_id: str
    query: str
    document: str
    rank_before: int | None
    rank_after: int | None
    difference: float
    first_before: str
    first_after: str


@dataclass(frozen=True, slots=True)
class Run:
    """Everything in one run folder that the report shows."""

    folder: Path
    recipe_yaml: str
    environment: Mapping[str, Any]
    status: Mapping[str, Any]
    under_way: bool
    log: Sequence[Mapping[str, Any]]
    evaluation: Evaluation | None
    non_finite: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name, which is the recipe's."""
        return self.folder.absolute().name

    def series(self, metric: str) -> tuple[list[int], list[float | None]]:
        """Steps (counted from 1) and values of a logged metric; None where it was not finite."""
        records = [
            record
            for record in self.log
            if metric in record and isinstance(record.get("step"), int)
        ]
        return [record["step"] + 1 for record in records], [
            _number(record[metric]) for record in records
        ]


def read_run(folder: Path) -> Run:
    """What a run folder holds. Raises BadFolder when it is not one, or when a file in it is
    damaged.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise BadFolder(
            f"{folder} is not a run folder: it has no recipe.yaml; give the folder that `nearfar"
            " fit` made, e.g. runs/quickstart"
        )
    return Run(
        folder=folder,
        recipe_yaml=(folder / "recipe.yaml").read_text(encoding="utf-8", errors="replace"),
        environment=_json_object(folder / "environment.json"),
        status=_json_object(folder / "status.json"),
        under_way=is_locked(folder),
        log=read_log(folder / "log.jsonl"),
        evaluation=_evaluation(folder / "evaluation.json"),
        non_finite=_json_object(folder / "non_finite.json"),
    )


def changes(evaluation: Evaluation) -> list[Change]:
    """Every query whose nDCG@10 can be compared, in the order of the file."""
    before, after = evaluation.before, evaluation.after
    if before is None or MAIN_METRIC not in before.metrics or MAIN_METRIC not in after.metrics:
        return []
    ranks_before, ranks_after = _ranks(before, evaluation), _ranks(after, evaluation)
    found = []
    for number, query in enumerate(evaluation.query_ids):
        tops = before.top.get(query, ()), after.top.get(query, ())
        ranks = ranks_before[number], ranks_after[number]
        right = next(
            (
                top[rank - 1]
                for top, rank in zip(tops, ranks, strict=True)
                if rank and rank <= len(top)
            ),
            "",
        )
        first = [top[0] if top else "" for top in tops]
        texts = [evaluation.texts.get(document, document) for document in (right, *first)]
        difference = after.metrics[MAIN_METRIC][number] - before.metrics[MAIN_METRIC][number]
        found.append(
            Change(
                query,
                evaluation.queries.get(query, query),
                texts[0],
                *ranks,
                difference,
                *texts[1:],
            )
        )
    return found


def _ranks(system: System, evaluation: Evaluation) -> list[int | None]:
    """Rank of the first right document: MRR@10 of a single query is one over it."""
    reciprocal = system.metrics.get("mrr@10", [0.0] * len(evaluation.query_ids))
    return [round(1 / value) if value > 0 else None for value in reciprocal]


def _evaluation(path: Path) -> Evaluation | None:
    content = _json_object(path)
    if not content:
        return None
    try:
        systems = [_system(entry) for entry in content["systems"]]
        query_ids = [str(query) for query in content["query_ids"]]
        if not systems or any(
            len(values) != len(query_ids)
            for system in systems
            for values in system.metrics.values()
        ):
            raise ValueError("no systems, or not one value a query")
        return Evaluation(
            set=str(content["set"]).removesuffix(f" {content['split']}"),
            split=str(content["split"]),
            documents=int(content["documents"]),
            query_ids=query_ids,
            systems=systems,
            comparisons=[_comparison(entry) for entry in content["comparisons"]],
            queries={str(key): str(text) for key, text in content.get("queries", {}).items()},
            texts={str(key): str(text) for key, text in content.get("texts", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFolder(
            f"{path} is not an evaluation ({type(error).__name__}: {error}); evaluate again, or"
            " remove it for a report without it"
        ) from error


def _system(entry: Mapping[str, Any]) -> System:
    metrics = {
        str(metric): [float(value) for value in values]
        for metric, values in entry["metrics"].items()
    }
    summary = {
        str(metric): Interval(float(each["mean"]), float(each["low"]), float(each["high"]))
        for metric, each in entry["summary"].items()
    }
    top = {
        str(query): [str(document) for document, _ in hits] for query, hits in entry["top"].items()
    }
    return System(str(entry["name"]), metrics, summary, top)


def _comparison(entry: Mapping[str, Any]) -> Comparison:
    difference = Interval(float(entry["difference"]), float(entry["low"]), float(entry["high"]))
    counts = [int(entry[name]) for name in ("better", "equal", "worse")]
    return Comparison(
        str(entry["before"]),
        str(entry["after"]),
        str(entry["metric"]),
        difference,
        float(entry["p_value"]),
        *counts,
    )


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except (OSError, ValueError) as error:
        raise BadFolder(
            f"{path} is damaged ({error}); remove it for a report without it"
        ) from error
    if not isinstance(content, dict):
        raise BadFolder(f"{path} is not a JSON object; remove it for a report without it")
    return content


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
