"""The data of the table of all queries, which a script of the page sorts and searches."""

import json
from dataclasses import dataclass

from markupsafe import Markup

from trainer.evaluation.results import MAIN_METRIC, Evaluation
from trainer.report.query_changes import query_changes
from trainer.report.text import printable, short

MOST_SYSTEMS = 4
"""The number of systems, the last ones, whose values are shown."""
_QUERY, _DOCUMENT = 160, 100


@dataclass(frozen=True, slots=True)
class QueryTable:
    """The content of the table, and the number of its rows."""

    json: Markup
    """An object with the names of `systems`, the texts of `documents`, and `rows`: query, number of
    the document that was found first, 1 if it is relevant, number of a relevant document, and
    1000 x the main metric of each system. The number is -1 for no document.
    """
    queries: int


def query_table(evaluation: Evaluation) -> QueryTable | None:
    """Returns the data of all queries, or None if there are no two systems to compare."""
    changes = query_changes(evaluation)
    if not changes:
        return None
    systems = [system for system in evaluation.systems if MAIN_METRIC in system.metrics]
    systems = systems[-MOST_SYSTEMS:]
    scores = [(1000 * system.metrics[MAIN_METRIC]).round().astype(int) for system in systems]
    documents: dict[str, int] = {"": -1}

    def number(text: str) -> int:
        return documents.setdefault(_cut(text, _DOCUMENT), len(documents) - 1)

    rows = [
        [
            _cut(change.query, _QUERY),
            number(change.first_after),
            int(change.rank_after == 1),
            number(change.document),
            [int(values[row]) for values in scores],
        ]
        for row, change in enumerate(changes)
    ]
    names = [_cut(system.name, _DOCUMENT) for system in systems]
    content = {"systems": names, "documents": [*documents][1:], "rows": rows}
    return QueryTable(_embedded_json(content), len(rows))


def _cut(text: str, characters: int) -> str:
    return str(printable(short(text, characters)))


def _embedded_json(content: object) -> Markup:
    """Returns JSON that cannot end the element it is in."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - no character of it is markup
