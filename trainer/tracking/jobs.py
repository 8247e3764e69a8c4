"""Mining and evaluation in trackers: jobs with results and without steps."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.data.cache.folder import user_cache
from trainer.evaluation.results import Evaluation
from trainer.mining.work import NEGATIVES, REPORT
from trainer.recipe.schema.trackers import Tracker
from trainer.runtime.attempts import read_json_object
from trainer.storage.redaction import redact_tree
from trainer.tracking.best_effort import BestEffort
from trainer.tracking.opening import import_tracker, open_run
from trainer.tracking.results import (
    changed_queries,
    mined_negatives,
    summary_of_evaluation,
)
from trainer.tracking.tracked_run import Description, Results, ResultTable, flat
from trainer.tracking.trackers import end_trackers

_MINING_SETTINGS = ("model", "teacher", "data", "corpus", "options", "precision")
_MINED_PAIRS = 200
"""The number of training pairs whose negatives a table shows."""


def log_mining(trackers: Sequence[Tracker], folder: Path) -> None:
    """Tells trackers about a finished mining job: its counts, a sample of the negatives, and the
    suspected false negatives. Its configuration is what it was made from.
    """
    report = read_json_object(folder / REPORT)
    config = {name: report[name] for name in _MINING_SETTINGS if name in report}
    numbers = {
        f"mining/{name.replace('.', '/')}": value
        for name, value in flat(report).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }

    def results() -> Results:
        tables = mined_negatives(folder / REPORT)
        tables["mined_negatives"] = _sample(folder / NEGATIVES)
        return Results(numbers, tables, {"mining_report": folder / REPORT})

    _log_job(trackers, _describe(folder.absolute().name, folder, config, "mine", report), results)


def log_evaluation(
    trackers: Sequence[Tracker], evaluation: Evaluation, out: Path | None = None
) -> None:
    """Tells trackers about an evaluation: all metrics and tests, and the queries on which the last
    two systems differ.

    W&B and TensorBoard write files: beside `out`, the file of the result, into a folder of its
    name; without it, into the cache of the user.
    """
    summary = summary_of_evaluation(evaluation)
    config = {
        "set": evaluation.set_name,
        "split": evaluation.split,
        "documents": evaluation.documents,
        "queries": len(evaluation.queries),
        "systems": [system.name for system in evaluation.systems],
    }
    name = f"evaluate-{evaluation.systems[-1].name}-on-{evaluation.set_name}"
    description = _describe(name, _files_of_trackers(out), config, "evaluate", summary)
    _log_job(trackers, description, lambda: Results(summary, changed_queries(evaluation)))


def _files_of_trackers(out: Path | None) -> Path:
    if out is not None:
        return out.with_name(f"{out.stem}.trackers")
    cache = user_cache() or Path(tempfile.gettempdir()) / "nearfar"
    return cache / "trackers"


def _describe(
    name: str, folder: Path, config: Mapping[str, Any], job_type: str, results: Any
) -> Description:
    """Returns the description of a job. Its id is a digest of settings and results, so that the
    same job with the same results is one run.
    """
    clean = redact_tree(dict(config))
    content = json.dumps([name, clean, results], sort_keys=True, default=str)
    run_id = hashlib.sha256(content.encode()).hexdigest()[:8]
    return Description(run_id, name, folder, clean, job_type)


def _log_job(
    trackers: Sequence[Tracker], description: Description, results: Callable[[], Results]
) -> None:
    """Tells trackers about a job. One that fails is named, and the job is as it was."""
    loggers = []
    for tracker in trackers:
        import_tracker(tracker)
        open_job = partial(open_run, tracker, description, replaces=True)
        loggers.append(BestEffort(tracker.kind, open_job, remainder="the result is complete"))
    end_trackers(loggers, results, is_done=True)


def _sample(path: Path) -> ResultTable:
    """Returns the first training pairs with their negatives, one negative per row."""
    rows = []
    with path.open(encoding="utf-8") as lines:
        for line in islice(lines, _MINED_PAIRS):
            pair = json.loads(line)
            negatives = enumerate(pair["negatives"])
            scores = pair.get("scores") or [None] * (1 + len(pair["negatives"]))
            rows += [
                (pair["query"], pair["positive"], text, scores[0], scores[1 + number])
                for number, text in negatives
            ]
    return ResultTable(("query", "positive", "negative", "positive's score", "score"), rows)
