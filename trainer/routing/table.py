"""The measurement of a router on a terminal and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from trainer.routing.measure import ALL_NAME, ROUTER_NAME, RouterEvaluation
from trainer.routing.router import Router
from trainer.storage.visible import visible

_NAME_WIDTH = 60


def router_tables(evaluation: RouterEvaluation) -> Iterator[Table]:
    """Yields the table of all queries, and if some are images, that of those in words."""
    yield _router_table(evaluation)
    if evaluation.in_words is not None:
        yield _router_table(evaluation.in_words)


def _router_table(evaluation: RouterEvaluation) -> Table:
    """Returns a table with one row per route, and those of all routes, the router, and the best
    that a router could do.
    """
    images = evaluation.images
    remark = "" if images is None else f", {images.count:,} of them images"
    table = Table(
        title=Text(f"{visible(evaluation.set_name, 60)}: {evaluation.queries:,} queries{remark}"),
        title_justify="left",
        box=None,
        header_style="dim",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("", overflow="fold")
    for name in ("nDCG@10 [95 %]", "cost", "asked for"):
        table.add_column(name, no_wrap=True, justify="right")
    for row in evaluation.rows:
        quality, share = row.quality, evaluation.shares.get(row.name)
        table.add_row(
            Text(visible(row.name, _NAME_WIDTH)),
            f"{quality.mean:.3f} [{quality.low:.3f}, {quality.high:.3f}]",
            "–" if row.cost is None else f"{row.cost:.2f}",
            "" if share is None else f"{share:.0%}".replace("%", " %"),
            style="bold" if row.name == ROUTER_NAME else None,
        )
    return table


def router_lines(evaluation: RouterEvaluation) -> Iterator[str]:
    """Yields how good the predictions are, and the verdict."""
    yield (
        f"A choice takes {evaluation.choice_milliseconds:.2f} ms. Predicted gains are off by"
        f" {evaluation.calibration_error:.3f} in the mean."
    )
    if evaluation.limitation:
        yield f"Note: {evaluation.limitation}."
    yield str(evaluation)


def curve_lines(router: Router) -> Iterator[str]:
    """Yields what a router has learned: its routes, and what limits of the cost lead to."""
    settings = router.settings
    yield f"learned from {settings.queries:,} queries of {visible(settings.learned_from)}"
    names = [*settings.routes, ALL_NAME]
    milliseconds = [*settings.milliseconds, sum(settings.milliseconds)]
    for name, quality, time in zip(names, settings.qualities, milliseconds, strict=True):
        yield f"  {visible(name)}: nDCG@10 {quality:.3f}, {time:.2f} ms per query"
    for limit in (0.25, 0.5, 0.75, 1.0):
        if limit < min(rule.cost for rule in settings.rules):
            continue
        rule = settings.best_rule(limit)
        remark = "" if rule.route is None else f", asks {visible(names[rule.route])} alone"
        yield (
            f"  router at a cost of at most {limit:g}: nDCG@10 {rule.quality:.3f} at a cost of"
            f" {rule.cost:.2f}{remark}"
        )
    if settings.image_routes:
        yield f"  queries that are images: {visible(' + '.join(settings.image_routes))}, by rule"


def evaluation_content(evaluation: RouterEvaluation) -> dict[str, Any]:
    """Returns the measurement as JSON values, with the verdict."""
    return {**asdict(evaluation), "verdict": str(evaluation)}
