"""`report.html` of a mining job: the number of negatives, the number that each filter removed, and
documents that are probably relevant without being marked.
"""

import json
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.report.page import write_page

_FILTERS = {
    "known_positive_or_twin": (
        "known positives",
        "positives of the query or of an equal query, and near copies of them or of the query",
    ),
    "skip_top": ("skipped at the top", "ranks with many relevant documents that are not marked"),
    "max_score": ("maximum score", "the score is too high"),
    "min_score": ("minimum score", "the score is too low to be useful"),
    "margin": ("margin", "the score is too close to the positive's"),
    "relative_margin": (
        "relative margin",
        "the score is too close to the positive's, as a share of it",
    ),
    "percent_of_positive": (
        "percent of the positive",
        "the score is above that share of the positive's",
    ),
}
_SOURCES = {"model": "found by the model", "bm25": "found by BM25", "random": "at random"}


def write_mining_page(report: Path) -> Path:
    """Writes `report.html` beside the `report.json` of a mining job, and returns its path.

    Raises BadFolder for any other file.
    """
    path = report.with_name("report.html")
    try:
        job = json.loads(report.read_text(encoding="utf-8"))
        write_page(path, "mining.html.j2", **_values(job))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFolder(
            f"{report} is not a report of `nearfar mine` ({type(error).__name__}: {error}); run"
            " `nearfar mine` again"
        ) from error
    return path


def _values(job: dict[str, Any]) -> dict[str, Any]:
    negatives = sum(job["negatives"].values())
    scores = job["sum_of_scores"]
    return {
        "negatives": negatives,
        "pairs_written": job["pairs_written"],
        "queries": job["queries"],
        "pairs": job["pairs"],
        "queries_without_negatives": job["queries_without_negatives"],
        "suspected": job["suspected"],
        "mean_positive": scores["positive"] / max(1, job["pairs"]),
        "mean_negative": scores["negative"] / max(1, negatives),
        "sources": [
            (name, "", [job["candidates"][source], job["negatives"][source]])
            for source, name in _SOURCES.items()
            if job["candidates"][source]
        ],
        "filters": [
            (*_FILTERS.get(name, (name, "")), [count]) for name, count in job["removed"].items()
        ],
        "worst": job["worst"],
        "made_with": json.dumps(job["made_with"], indent=2, ensure_ascii=False),
    }
