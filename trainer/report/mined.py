"""The page of a mining job: what was written, what each filter removed, which documents are
probably right answers that nobody has marked.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.report.html import page_head
from trainer.report.markup import count_table, escaped, short, signed
from trainer.storage.atomic import write_text

_FILTERS = {
    "known_positive_or_twin": (
        "known positives",
        "of the query or of a query that says the same, their twins, and twins of the query itself",
    ),
    "skip_top": (
        "skipped at the top",
        "ranks left out because many of them are right answers that nobody has marked",
    ),
    "max_score": ("maximum score", "scored too high"),
    "min_score": ("minimum score", "scored too low to teach anything"),
    "margin": ("margin", "too near to the positive's score"),
    "relative_margin": ("relative margin", "too near to the positive's score, as a share of it"),
    "percent_of_positive": (
        "percent of the positive",
        "scored above that share of the positive's score",
    ),
}
_SOURCES = {"model": "found by the model", "bm25": "found by BM25", "random": "at random"}


def write_mined_page(report: Path) -> Path:
    """Writes `report.html` beside a mining job's `report.json` and returns its path. Raises
    BadFolder when that is not one.
    """
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        page = "\n".join(
            [
                page_head("Hard negatives"),
                *_header(found),
                *_sources(found),
                *_filters(found),
                *_suspected(found),
                *_made_with(found),
            ]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFolder(
            f"{report} is not the report of `nearfar mine` ({type(error).__name__}: {error}); mine"
            " again"
        ) from error
    path = report.with_name("report.html")
    write_text(path, page + "</main></body></html>\n")
    return path


def _header(found: dict[str, Any]) -> Iterable[str]:
    written, suspected = sum(found["negatives"].values()), found["suspected"]
    yield (
        '<header><p class="eyebrow">nearfar · hard negatives</p><h1>'
        + f"{written:,} negatives for {found['pairs_written']:,} pairs</h1></header>"
    )
    sentences = [
        f"{found['queries']:,} queries, {found['pairs']:,} pairs of a query and a positive."
    ]
    if found["queries_without_negatives"]:
        sentences.append(
            f"{found['queries_without_negatives']:,} queries were left with no negative;"
            " without-negatives.jsonl names them and says why."
        )
    if suspected["candidates"]:
        sentences.append(
            f"{suspected['candidates']:,} candidates of {suspected['queries']:,} queries score"
            f" above the positive: suspected false negatives, of which {suspected['written']:,}"
            " were written."
        )
    yield f'<p class="lead">{escaped(" ".join(sentences))}</p>'


def _sources(found: dict[str, Any]) -> Iterable[str]:
    pairs, written = max(1, found["pairs"]), max(1, sum(found["negatives"].values()))
    mean = {
        "positive": found["sum_of_scores"]["positive"] / pairs,
        "negative": found["sum_of_scores"]["negative"] / written,
    }
    rows = [
        (words, found["candidates"][name], found["negatives"][name])
        for name, words in _SOURCES.items()
        if found["candidates"][name]
    ]
    yield (
        '<section><h2>What was found</h2><p class="lead">Mean score of a positive'
        f" {mean['positive']:.3f}, of a negative {mean['negative']:.3f}.</p>"
    )
    yield (
        count_table(
            ("", "candidates", "written"),
            [(words, "", candidates, negatives) for words, candidates, negatives in rows],
        )
        + "</section>"
    )


def _filters(found: dict[str, Any]) -> Iterable[str]:
    yield (
        '<section><h2>What was removed</h2><p class="lead">A candidate counts for the first filter'
        " that removes it.</p>"
    )
    yield (
        count_table(
            ("", "removed"),
            [(*_FILTERS.get(name, (name, "")), count) for name, count in found["removed"].items()],
        )
        + "</section>"
    )


def _suspected(found: dict[str, Any]) -> Iterable[str]:
    yield (
        '<section><h2>Suspected false negatives</h2><p class="lead">Candidates that score furthest'
        " above the positive. Read them: each is either "
    )
    yield "a mistake of the model, or a right answer that the data does not know of.</p>"
    if not found["worst"]:
        yield "<p>None: no candidate scores above its positive.</p></section>"
        return
    rows = []
    for pair in found["worst"]:
        difference = pair["candidate_score"] - pair["positive_score"]
        rows.append(
            "<tr><td"
            f' class="query"><bdi>{escaped(short(pair["query"], 160))}</bdi></td><td><bdi>{escaped(short(pair["candidate"], 220))}</bdi>'
            f"<small>positive: <bdi>{escaped(short(pair['positive'], 160))}</bdi></small></td>"
            '<td class="rank'
            f' number">{pair["candidate_score"]:.3f}<small>{pair["positive_score"]:.3f}</small></td>'
            f'<td class="change number loss">{signed(difference, 3)}</td></tr>'
        )
    yield (
        '<div class="card queries scroll"><table><thead><tr><th scope="col"'
        ' class="query">query</th><th scope="col">candidate</th>'
        '<th scope="col" class="rank number">scores</th><th scope="col" class="change'
        ' number">above</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _made_with(found: dict[str, Any]) -> Iterable[str]:
    text = escaped(json.dumps(found["made_with"], indent=2, ensure_ascii=False))
    yield (
        '<section><h2>How it was made</h2><details class="card" open><summary>Models, data and'
        f" options</summary><pre>{text}</pre></details></section>"
    )
    yield (
        f"<footer>Written by nearfar on {datetime.now().astimezone():%d %B %Y, %H:%M %Z}. This page"
        " loads nothing from anywhere.</footer>"
    )
