"""`report.html`: one page that holds everything about a run and asks nothing of the network.

The page allows itself no script and no request (its content security policy says so to the
browser), and every string from the run folder goes through `escaped`.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.report.curves import training_section
from trainer.report.markup import duration, escaped, metric_name, probability, short, signed
from trainer.report.plots import change_histogram, interval_chart
from trainer.report.read import MAIN_METRIC, Change, Comparison, Evaluation, Run, changes, read_run
from trainer.report.style import STYLE
from trainer.storage.atomic import write_text

MOST_CHANGES = 15
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_TABLE_METRICS = (MAIN_METRIC, "mrr@10", "map", "recall@10", "recall@100")
_CERTAIN = 0.05


def write_report(run_folder: Path) -> Path:
    """Writes `report.html` from what the run folder holds now and returns its path. Raises
    BadFolder when that is not a run.
    """
    run = read_run(Path(run_folder))
    page = "\n".join(
        [
            page_head(run.name),
            *_header(run),
            *_evaluation(run.evaluation),
            *training_section(run),
            *_queries(run.evaluation),
            *_use(run),
            *_made_with(run),
            "</main></body></html>\n",
        ]
    )
    path = run.folder / "report.html"
    write_text(path, page)
    return path


def verdict(evaluation: Evaluation) -> str:
    """The one sentence: what changed, how sure that is, on what.

    It says that nothing is proven when the paired test does not exclude chance (p of 0.05 or more).
    """
    test = evaluation.main
    where = f"on {len(evaluation.query_ids):,} {evaluation.split} queries that training never saw"
    if test is None or evaluation.before is None:
        return (
            f"{metric_name(MAIN_METRIC)} {evaluation.after.summary[MAIN_METRIC].mean:.3f} {where}."
        )
    before, after = (
        system.summary[MAIN_METRIC].mean for system in (evaluation.before, evaluation.after)
    )
    numbers = (
        f"{before:.3f} to {after:.3f} ({signed(test.difference.mean)}, {_between(test)},"
        f" {probability(test.p_value)})"
    )
    if test.p_value >= _CERTAIN:
        return f"No proven change: {metric_name(MAIN_METRIC)} went from {numbers} {where}."
    verb = "rose" if after > before else "fell"
    return f"{metric_name(MAIN_METRIC)} {verb} from {numbers} {where}."


def _between(test: Comparison) -> str:
    return f"95 % interval {signed(test.difference.low)} to {signed(test.difference.high)}"


def page_head(title: str) -> str:
    """The beginning of a page, up to and with `<main>`."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta'
        f' http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="viewport"'
        ' content="width=device-width, initial-scale=1"><meta name="referrer"'
        f' content="no-referrer"><title>{escaped(title)} ·'
        f" nearfar</title><style>{STYLE}</style></head><body><main>"
    )


def _header(run: Run) -> Iterable[str]:
    facts = {
        "": _date(run.environment.get("started")),
        "model": _recipe_value(run.recipe_yaml, "backbone"),
        "data": _recipe_value(run.recipe_yaml, "train"),
        "took": (
            duration(float(run.status["seconds"]))
            if isinstance(run.status.get("seconds"), int | float)
            else ""
        ),
    }
    shown = [
        f"<span>{escaped(name)} <b>{escaped(short(value, 90))}</b></span>"
        for name, value in facts.items()
        if value
    ]
    yield (
        f'<header><p class="eyebrow">nearfar · run report</p><h1>{escaped(run.name)}</h1><p'
        f' class="facts">{"".join(shown)}</p></header>'
    )
    yield from _notices(run)
    if run.evaluation is not None:
        after, before = run.evaluation.after.summary[MAIN_METRIC].mean, run.evaluation.before
        old = (
            f'<span class="old">{before.summary[MAIN_METRIC].mean:.3f}</span><span'
            ' class="arrow">→</span>'
            if before
            else ""
        )
        yield (
            f'<section class="card verdict"><p class="score">{old}<span'
            f' class="new">{after:.3f}</span>'
            f"<small>{metric_name(MAIN_METRIC)},"
            f" {escaped(run.evaluation.set)}</small></p><p>{escaped(verdict(run.evaluation))}</p></section>"
        )


def _notices(run: Run) -> Iterable[str]:
    status = run.status.get("status")
    if status == "failed":
        yield (
            '<p class="notice"><b>This run failed.</b>'
            f" {escaped(short(str(run.status.get('error', '')), 600))}</p>"
        )
    elif status == "stopped":
        yield (
            '<p class="notice calm"><b>This run was stopped before its end.</b> What it had learned'
            " by then was saved.</p>"
        )
    elif not status and run.under_way:
        yield (
            '<p class="notice calm">This page was written while the run was under way;'
            " <code>nearfar report</code> writes it anew.</p>"
        )
    elif not status:
        yield (
            '<p class="notice"><b>This run was killed before its end.</b> The log holds everything'
            " up to that moment.</p>"
        )
    broken = [
        (record["step"], name)
        for record in run.log
        for name in record.get("non_finite", [])
        if isinstance(record.get("step"), int)
    ]
    if broken:
        step, name = broken[0]
        yield (
            f'<p class="notice"><b>Not a finite number:</b> {escaped(name)} at step {step + 1},'
            f" {len(broken)} in all. They are gaps in the curves.</p>"
        )
    if run.evaluation is None:
        yield (
            '<p class="notice calm">There is no evaluation on test queries in this run folder; the'
            " curves below are all there is.</p>"
        )


def _evaluation(evaluation: Evaluation | None) -> Iterable[str]:
    if evaluation is None:
        return
    metrics = [metric for metric in _TABLE_METRICS if metric in evaluation.after.summary]
    yield '<section><h2>Before and after</h2><p class="lead">'
    yield (
        f"{len(evaluation.query_ids):,} {escaped(evaluation.split)} queries of"
        f" {escaped(evaluation.set)}, each searched among {evaluation.documents:,} documents. "
    )
    yield (
        'Under each mean stands its 95 % bootstrap interval.</p><div class="card'
        ' scroll"><table><thead><tr><th scope="col">system</th>'
    )
    yield (
        "".join(
            f'<th scope="col" class="number">{escaped(metric_name(metric))}</th>'
            for metric in metrics
        )
        + "</tr></thead><tbody>"
    )
    best = {
        metric: max(
            system.summary[metric].mean for system in evaluation.systems if metric in system.summary
        )
        for metric in metrics
    }
    for system in evaluation.systems:
        cells = []
        for metric in metrics:
            each = system.summary.get(metric)
            if each is None:
                cells.append('<td class="number">–</td>')
                continue
            mean = f"<b>{each.mean:.3f}</b>" if each.mean == best[metric] else f"{each.mean:.3f}"
            cells.append(
                f'<td class="number">{mean}<small>{each.low:.3f} – {each.high:.3f}</small></td>'
            )
        ours = ' class="ours"' if system is evaluation.after else ""
        yield f'<tr{ours}><th scope="row">{escaped(system.name)}</th>{"".join(cells)}</tr>'
    yield '</tbody></table></div><ul class="tests">'
    for test in evaluation.comparisons:
        yield (
            f"<li>{escaped(test.after)} against {escaped(test.before)}:"
            f" <b>{signed(test.difference.mean)}</b> {escaped(metric_name(test.metric))},"
            f" {_between(test)}, paired randomisation test"
            f" {escaped(probability(test.p_value))}</li>"
        )
    rows = [
        (system.name, system.summary[MAIN_METRIC])
        for system in evaluation.systems
        if MAIN_METRIC in system.summary
    ]
    title = f"{metric_name(MAIN_METRIC)} with 95 % intervals"
    yield (
        "</ul><figure"
        f' class="card"><figcaption><h3>{title}</h3></figcaption>{interval_chart(title, rows)}</figure></section>'
    )


def _queries(evaluation: Evaluation | None) -> Iterable[str]:
    if evaluation is None or evaluation.before is None or not (every := changes(evaluation)):
        return
    better = sorted(
        (each for each in every if each.difference > 1e-9), key=lambda each: -each.difference
    )
    worse = sorted(
        (each for each in every if each.difference < -1e-9), key=lambda each: each.difference
    )
    counts = {
        "better": len(better),
        "equal": len(every) - len(better) - len(worse),
        "worse": len(worse),
    }
    yield (
        f'<section><h2>Query by query</h2><p class="lead">From {escaped(evaluation.before.name)} to'
        f" {escaped(evaluation.after.name)}. "
    )
    yield "A rank is that of the first right document among the first ten.</p>"
    yield (
        '<div class="share" aria-hidden="true">'
        + "".join(
            f'<i class="{name}" style="flex:{count}"></i>'
            for name, count in counts.items()
            if count
        )
        + "</div>"
    )
    yield (
        '<p class="key">'
        + "".join(
            f'<span><i class="{name}"></i><b>{count:,}</b> {name}</span>'
            for name, count in counts.items()
        )
        + "</p>"
    )
    chart = change_histogram(
        f"Change of {metric_name(MAIN_METRIC)} a query", [each.difference for each in every]
    )
    if chart:
        yield (
            f'<figure class="card"><figcaption><h3>Change of {metric_name(MAIN_METRIC)} a'
            f" query</h3><span>queries without change left out</span></figcaption>{chart}</figure>"
        )
    yield _change_table("Gained", better, "first before", gained=True)
    yield _change_table("Lost", worse, "first now", gained=False) + "</section>"


def _change_table(title: str, found: list[Change], label: str, gained: bool) -> str:
    if not found:
        return f'<div class="card queries"><h3>{title}: none</h3></div>'
    rows = []
    for each in found[:MOST_CHANGES]:
        other = each.first_before if gained else each.first_after
        instead = (
            f"<small>{label}: {escaped(short(other, 100))}</small>"
            if other and other != each.document
            else ""
        )
        rows.append(
            "<tr><td"
            f' class="query"><bdi>{escaped(short(each.query, 160))}</bdi></td><td><bdi>{escaped(short(each.document, 150))}</bdi>{instead}</td><td'
            f' class="rank number">{_rank(each.rank_before)} → {_rank(each.rank_after)}</td><td'
            ' class="change number'
            f' {"gain" if gained else "loss"}">{signed(each.difference, 2)}</td></tr>'
        )
    count = (
        f"the {MOST_CHANGES} largest of {len(found):,}"
        if len(found) > MOST_CHANGES
        else f"{len(found):,}"
    )
    return (
        f'<div class="card queries scroll"><h3>{title}: {count}</h3><table><thead><tr><th'
        ' scope="col" class="query">query</th><th scope="col">right document</th><th scope="col"'
        ' class="rank number">rank</th><th scope="col" class="change'
        f' number">nDCG@10</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _rank(rank: int | None) -> str:
    return "10+" if rank is None else str(rank)


def _use(run: Run) -> Iterable[str]:
    model = run.folder / "model"
    if not model.is_dir():
        return
    shell = (
        f"# vectors of your texts, one a line\nnearfar encode {model} < texts.txt >"
        " vectors.npy\n\n# search your documents\n"
        f'nearfar index {model} corpus.jsonl -o idx\nnearfar search idx "a question"'
    )
    python = (
        "from sentence_transformers import SentenceTransformer\n\nmodel ="
        f' SentenceTransformer("{model}")\nqueries = model.encode_query(["a question"])\ndocuments'
        ' = model.encode_document(["a text that answers it"])\nprint(model.similarity(queries,'
        " documents))"
    )
    yield (
        '<section><h2>Use it</h2><p class="lead">The model folder holds weights, tokenizer, prompts'
        ' and lengths; nothing else is needed.</p><div class="stack">'
    )
    yield (
        f'<div class="card"><h3>On the command line</h3><pre>{_comments(shell)}</pre></div><div'
        f' class="card"><h3>In Python</h3><pre>{escaped(python)}</pre></div></div></section>'
    )


def _made_with(run: Run) -> Iterable[str]:
    yield (
        '<section><h2>How it was made</h2><p class="lead">Running this recipe again repeats the'
        ' run.</p><div class="stack">'
    )
    yield (
        '<details class="card"'
        f" open><summary>Recipe</summary><pre>{_yaml(run.recipe_yaml)}</pre></details>"
    )
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>'
        for name, value in _flat(run.environment)
    )
    yield (
        '<details class="card"><summary>Environment</summary><div'
        f' class="scroll"><table><tbody>{rows}</tbody></table></div></details></div></section>'
    )
    yield (
        f"<footer>Written by nearfar on {datetime.now().astimezone():%d %B %Y, %H:%M %Z}. This page"
        " loads nothing from anywhere.</footer>"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        key = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} · ")
        elif name == "memory_bytes" and isinstance(value, int):
            yield f"{prefix}memory", f"{value / 2**30:.1f} GiB"
        elif value not in (None, [], ""):
            yield key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _yaml(text: str) -> str:
    """The recipe with keys and comments coloured; escaped first, so that colouring cannot open a
    tag.
    """
    lines = [
        re.sub(r"^(\s*(?:- )?)([\w.-]+)(?=:)", r'\1<span class="k">\2</span>', escaped(line))
        for line in text.rstrip().split("\n")
    ]
    return "\n".join(
        f'<span class="c">{line}</span>' if line.lstrip().startswith("#") else line
        for line in lines
    )


def _comments(text: str) -> str:
    return "\n".join(
        f'<span class="c">{escaped(line)}</span>' if line.startswith("#") else escaped(line)
        for line in text.split("\n")
    )


def _recipe_value(recipe_yaml: str, key: str) -> str:
    """The first value under a key of the recipe, as text: the page shows it, nothing depends on
    it.
    """
    found = re.search(rf"^\s+{key}:[ \t]*(.+)$", recipe_yaml, re.MULTILINE)
    return found.group(1).strip().strip("'\"") if found else ""


def _date(text: Any) -> str:
    try:
        return f"{datetime.fromisoformat(str(text)):%d %B %Y, %H:%M}".lstrip("0")
    except ValueError:
        return ""
