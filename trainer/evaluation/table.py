"""An evaluation on a terminal: the verdict, a table, the paired tests and a few searches.

Control characters in texts and names are made visible.
"""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from trainer.batch import identity
from trainer.evaluation.results import MAIN_METRIC, Comparison, Evaluation, Selection, SystemResult
from trainer.evaluation.systems.short_names import cell_names, short_name, short_names
from trainer.evaluation.verdict import conclusion, sentence, verdict
from trainer.storage.visible import visible

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet

_NAMES = {
    "ndcg": "nDCG",
    "mrr": "MRR",
    "map": "MAP",
    "image_to_text_ndcg": "to text\nnDCG",
    "image_to_text_recall": "to text\nrecall",
}
_ROOMY_COLUMNS = 4
"""More metrics fit a narrow screen only with one space between them."""
_HITS = 3
"""The number of documents per query in an example."""
_WIDTH = 70
"""The number of characters of a document in an example."""
_NAME_WIDTH, _LONGEST_NAME, _NAME_OF_EXAMPLE = 20, 60, 40
"""The number of characters of a name: in a narrow table, at most, and above an example."""


def result_parts(
    evaluation: Evaluation | None, selection: Selection, test: "RetrievalSet | None"
) -> list[Table | Text]:
    """Returns the result of a run for the terminal.

    It has the verdict and, if test queries were measured, the table, the paired tests and three
    searches.
    """
    parts: list[Table | Text] = [verdict_line(evaluation, selection)]
    if evaluation is None or test is None:
        return parts
    parts += [comparison_table(evaluation), *comparison_lines(evaluation)]
    if len(evaluation.systems) > 1:
        parts.append(search_examples(test, *evaluation.systems[-2:]))
    return parts


def verdict_line(evaluation: Evaluation | None, selection: Selection | None = None) -> Text:
    """Returns the verdict on a run, which is first in its result, with a line per general
    collection.
    """
    outcome = verdict(evaluation, selection)
    if outcome is None:
        return Text()
    headline, *general = map(visible, outcome.lines)
    color = "green" if outcome.success else "yellow"
    return Text("\n").join([Text(headline, style=f"bold {color}"), *map(Text, general)])


def comparison_table(evaluation: Evaluation, width: int = 80) -> Table:
    """Returns a table with one row per system and one column per metric.

    The main metric has the 95 % interval of its mean. The table is at most `width` columns wide,
    but not less than 80. Systems that could not be measured are in the table, without figures.
    """
    queries = len(evaluation.systems[0].query_ids)
    title = (
        f"{visible(evaluation.set_name, 60)}: {queries:,} queries,"
        f" {evaluation.documents:,} documents; means [95 % interval]"
    )
    metrics = list(evaluation.systems[-1].metrics)
    table = Table(
        title=Text(title, no_wrap=True, overflow="ignore"),  # it may be wider than the table
        title_justify="left",
        box=None,
        header_style="dim",
        pad_edge=False,
        padding=(0, 2 if len(metrics) <= _ROOMY_COLUMNS else 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for metric in metrics:
        label = f"{_label(metric)} [95 %]" if metric == MAIN_METRIC else _label(metric)
        table.add_column(label, no_wrap=True, vertical="bottom")
    names = cell_names(_names(evaluation), _name_width(width))
    for number, system in enumerate(evaluation.systems):
        cells = [
            _with_interval(system) if metric == MAIN_METRIC else f"{system.mean(metric):.3f}"
            for metric in metrics
        ]
        table.add_row(
            Text(names[system.name]),
            *cells,
            style="bold" if number == len(evaluation.systems) - 1 else "",
        )
    for failure in evaluation.failures:
        table.add_row(Text(names[failure.system]), "not measured", style="yellow")
    return table


def _names(evaluation: Evaluation) -> list[str]:
    failures = (failure.system for failure in evaluation.failures)
    return [*(system.name for system in evaluation.systems), *failures]


def _name_width(width: int) -> int:
    """Returns the characters of a name in a table that is `width` columns wide."""
    return max(_NAME_WIDTH, min(_LONGEST_NAME, _NAME_WIDTH + width - 80))


def comparison_lines(evaluation: Evaluation) -> list[Text]:
    """Returns why the figures are too high, if they are, the notes on systems, and the difference
    of the last system to each other one, the nearest in the table first.

    The line of a difference has its interval, the p-value of the paired test, and what it proves.
    """
    limitation = visible(evaluation.limitation, 300)
    tests, names = len(evaluation.comparisons), short_names(_names(evaluation), _LONGEST_NAME)
    failures = [
        Text(f"{visible(failure.system)} was not measured: {failure.problem}", style="yellow")
        for failure in evaluation.failures
    ]
    notes = [
        Text(f"{names[system.name]}: {visible(system.note, 300)}", style="dim")
        for system in evaluation.systems
        if system.note
    ]
    return [
        *([Text(sentence(limitation), style="yellow")] if limitation else []),
        *notes,
        *failures,
        *(_comparison_line(test, tests, names) for test in reversed(evaluation.comparisons)),
    ]


def search_examples(test: "RetrievalSet", *systems: SystemResult, count: int = 3) -> Text:
    """Returns the first documents of each system for `count` queries, with right ones marked.

    The queries are those whose texts have the smallest identities, so the choice does not depend on
    their results.
    """
    texts = test.queries_by_id
    documents = test.shown_documents
    queries = sorted(systems[0].query_ids, key=lambda query: (identity(texts[query]), query))
    lines = Text()
    lines.append(
        f"{min(count, len(queries))} searches, picked by a hash of the query and not by how they"
        " went (✓ marks a right document)\n",
        style="dim",
    )
    for query in queries[:count]:
        lines.append(f"\n{_snippet(texts[query], 90)}\n", style="bold")
        for system in systems:
            _append_hits(lines, system, query, test.qrels[query], documents)
    return lines


def _append_hits(
    lines: Text,
    system: SystemResult,
    query: str,
    judgements: dict[str, int],
    documents: dict[str, str],
) -> None:
    hits = system.top.get(query, [])
    right = [judgements.get(document, 0) > 0 for document, _ in hits]
    summary = (
        f"first right document at rank {right.index(True) + 1}"
        if any(right)
        else f"no right document among the first {len(hits)}"
    )
    lines.append(f"  {short_name(system.name, _NAME_OF_EXAMPLE)}: {summary}\n", style="dim")
    for rank, (document, _) in enumerate(hits[:_HITS]):
        lines.append("    ✓ " if right[rank] else "      ", style="green")
        lines.append(f"{rank + 1}. {_snippet(documents.get(document, document), _WIDTH)}\n")


def _comparison_line(comparison: Comparison, tests: int, names: dict[str, str]) -> Text:
    test = comparison.test
    correction = (
        f" ({comparison.corrected_p_value:.4f} corrected for {tests} comparisons)"
        if tests > 1
        else ""
    )
    system, baseline = names[comparison.system], names[comparison.baseline]
    return Text.assemble(
        (f"{system} vs {baseline}: ", "bold"),
        f"{_label(comparison.metric)} {test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}], p"
        f" = {test.p_value:.4f}{correction}; {test.better:,} queries better, {test.equal:,} equal,"
        f" {test.worse:,} worse. {conclusion(comparison)}",
    )


def _with_interval(system: SystemResult) -> str:
    interval = system.interval()
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _label(metric: str) -> str:
    name, at, cut = metric.partition("@")
    return _NAMES.get(name, name) + at + cut


def _snippet(text: str, limit: int) -> str:
    return visible(" ".join(text[: 10 * limit].split()), limit)
