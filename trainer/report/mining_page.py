"""`report.html` of a mining job: what was written, what each filter removed, and which documents
are probably relevant though nobody has marked them.
"""

import json
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.report.page import write_page

_FILTERS = {
    "known_positive_or_twin": (
        "known positives",
        "of the query or of one that says the same, near copies of them and of the query itself",
    ),
    "skip_top": ("skipped at the top", "ranks with many relevant documents that nobody has marked"),
    "max_score": ("maximum score", "scored too high"),
    "min_score": ("minimum score", "scored too low to teach anything"),
    "margin": ("margin", "scored too close to the positive"),
    "relative_margin": ("relative margin", "scored too close to the positive, as a share of it"),
    "percent_of_positive": (
        "percent of the positive",
        "scored above that share of the positive's score",
    ),
}
_SOURCES = {"model": "found by the model", "bm25": "found by BM25", "random": "at random"}


def write_mining_page(report: Path) -> Path:
    """Writes `report.html` beside a mining job's `report.json` and returns its path. Raises
    BadFolder for any other file.
    """
    path = report.with_name("report.html")
    try:
        job = json.loads(report.read_text(encoding="utf-8"))
        write_page(path, "mining.html.j2", **_values(job))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFolder(
            f"{report} is not the report of `nearfar mine` ({type(error).__name__}: {error}); mine"
            " again"
        ) from error
    return path


def _values(job: dict[str, Any]) -> dict[str, Any]:
    written = sum(job["negatives"].values())
    scores = job["sum_of_scores"]
    return {
        "written": written,
        "pairs_written": job["pairs_written"],
        "queries": job["queries"],
        "pairs": job["pairs"],
        "queries_without_negatives": job["queries_without_negatives"],
        "suspected": job["suspected"],
        "mean_positive": scores["positive"] / max(1, job["pairs"]),
        "mean_negative": scores["negative"] / max(1, written),
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
