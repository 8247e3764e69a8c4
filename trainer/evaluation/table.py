"""An evaluation as a person reads it on a terminal: a table, what changed and how sure that is, and
a few searches.

Every text that came from outside is shown with its control characters written out.
"""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from trainer.batch import identity
from trainer.evaluation.results import MAIN_METRIC, Comparison, Evaluation, Selection, SystemResult
from trainer.evaluation.verdict import verdict
from trainer.storage.visible import visible

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet

_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}
_SHOWN = 3
_WIDTH = 70


def result_parts(
    evaluation: Evaluation | None, selection: Selection, test: "RetrievalSet | None"
) -> list[Table | Text]:
    """The result of a run: the verdict, and where test queries were measured, the table, the paired
    tests and three searches.
    """
    parts: list[Table | Text] = [verdict_line(evaluation, selection)]
    if evaluation is None or test is None:
        return parts
    parts += [comparison_table(evaluation), *comparison_lines(evaluation)]
    if len(evaluation.systems) > 1:
        before, after = evaluation.systems[-2:]
        parts.append(search_examples(test, before, after))
    return parts


def verdict_line(evaluation: Evaluation | None, selection: Selection | None = None) -> Text:
    """The verdict on a run: the first line of its result."""
    said = verdict(evaluation, selection)
    good = said is not None and said.success
    return Text(visible(str(said or "")), style="bold green" if good else "bold yellow")


def comparison_table(evaluation: Evaluation) -> Table:
    """One row a system, one column a metric; the main metric with the 95 % interval of its mean. At
    most 80 columns wide.
    """
    queries = len(evaluation.systems[0].query_ids)
    title = (
        f"{visible(evaluation.set_name, 60)}: {queries:,} queries,"
        f" {evaluation.documents:,} documents; means, in brackets the 95 % interval"
    )
    table = Table(
        title=Text(title),
        title_justify="left",
        box=None,
        header_style="dim",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("", no_wrap=True)
    metrics = list(evaluation.systems[-1].metrics)
    for metric in metrics:
        table.add_column(
            f"{_label(metric)} [95 %]" if metric == MAIN_METRIC else _label(metric), no_wrap=True
        )
    for number, system in enumerate(evaluation.systems):
        cells = [
            _with_interval(system) if metric == MAIN_METRIC else f"{system.mean(metric):.3f}"
            for metric in metrics
        ]
        table.add_row(
            Text(_short(system.name)),
            *cells,
            style="bold" if number == len(evaluation.systems) - 1 else "",
        )
    return table


def comparison_lines(evaluation: Evaluation) -> list[Text]:
    """What changed from each earlier system to the last, the nearest one first, with interval and
    p-value of the paired test.
    """
    return [_comparison_line(comparison) for comparison in reversed(evaluation.comparisons)]


def search_examples(
    set: "RetrievalSet", before: SystemResult, after: SystemResult, count: int = 3
) -> Text:
    """The first documents of `count` queries, before and after, right ones ticked.

    The queries are those whose texts have the smallest identities, so nobody chose them for how
    they went.
    """
    texts = dict(zip(set.query_ids, set.queries, strict=True))
    documents = dict(zip(set.document_ids, set.documents, strict=True))
    chosen = sorted(after.query_ids, key=lambda query: (identity(texts[query]), query))[:count]
    lines = Text()
    lines.append(
        f"{len(chosen)} searches, picked by a hash of the query and not by how they went (✓ marks a"
        " right document)\n",
        style="dim",
    )
    for query in chosen:
        lines.append(f"\n{_snippet(texts[query], 90)}\n", style="bold")
        for system in (before, after):
            _append_hits(lines, system, query, set.qrels[query], documents)
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
    found = (
        f"first right document at rank {right.index(True) + 1}"
        if any(right)
        else f"no right document among the first {len(hits)}"
    )
    lines.append(f"  {_short(system.name)}: {found}\n", style="dim")
    for rank, (document, _) in enumerate(hits[:_SHOWN]):
        lines.append("    ✓ " if right[rank] else "      ", style="green")
        lines.append(f"{rank + 1}. {_snippet(documents.get(document, document), _WIDTH)}\n")


def _comparison_line(comparison: Comparison) -> Text:
    test = comparison.test
    return Text.assemble(
        (f"{_short(comparison.after)} vs {_short(comparison.before)}: ", "bold"),
        f"{_label(comparison.metric)} {test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}], p"
        f" = {test.p_value:.4f}; {test.better:,} queries better, {test.equal:,} equal,"
        f" {test.worse:,} worse",
    )


def _with_interval(system: SystemResult) -> str:
    each = system.interval()
    return f"{each.mean:.3f} [{each.low:.3f}, {each.high:.3f}]"


def _label(metric: str) -> str:
    name, at, cut = metric.partition("@")
    return _NAMES.get(name, name) + at + cut


def _short(name: str, limit: int = 20) -> str:
    """A name cut at its front, where paths are alike; of two stages, joined by a plus, each.

    >>> _short("sentence-transformers/all-MiniLM-L6-v2"), _short(
    ...     "sentence-transformers/all-MiniLM-L6-v2 + runs/cross-encoder/model"
    ... )
    ('…rs/all-MiniLM-L6-v2', '…M-L6-v2 + …r/model')
    """
    shown = visible(name)
    if len(shown) <= limit:
        return shown
    parts = shown.split(" + ")
    each = (limit - 3 * (len(parts) - 1)) // len(parts)
    if len(parts) > 1 and each > 1:
        return " + ".join(_short(part, each) for part in parts)
    return f"…{shown[1 - limit :]}"


def _snippet(text: str, limit: int) -> str:
    return visible(" ".join(text[: 10 * limit].split()), limit)
