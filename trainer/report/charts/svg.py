"""The parts of a chart in SVG: scales, ticks, grids and the frame.

A chart has no scripts. It has the colours of the page, light or dark, and a title for screen
readers. Every string in a chart passes through `escape`, and every other value is a number that is
formatted here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trainer.report.text import escape

WIDTH, HEIGHT = 480, 220
LEFT_MARGIN, RIGHT_MARGIN, TOP_MARGIN, BOTTOM_MARGIN = 52, 14, 12, 30

Number = int | float
Scale = Callable[[Number], Number]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its title."""

    title: str
    note: str
    chart: Markup


def draw(
    summary: str,
    parts: Sequence[str],
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Markup:
    """Returns a chart that fills its card.

    Some charts are drawn twice, and the style sheet then shows the wide or the narrow one.
    """
    style = "wide" if width > WIDTH else "narrow" if width < WIDTH else "small"
    svg = (
        f'<svg class="chart {style}" viewBox="0 0 {width} {height}" role="img"'
        f' aria-label="{escape(summary)}">{"".join(parts)}</svg>'
    )
    return Markup(svg)  # noqa: S704 - every string was escaped


def linear_scale(low: Number, high: Number, start: Number, end: Number) -> Scale:
    """Returns a function that maps the range `low` to `high` to the places `start` to `end`."""
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def ticks(low: Number, high: Number, count: int = 4) -> list[Number]:
    """Returns about `count` round numbers within a range.

    >>> ticks(0.0, 1.0), ticks(0.0, 240.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 50.0, 100.0, 150.0, 200.0])
    """
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(
        (factor * power for factor in (1, 2, 2.5, 5) if span / (factor * power) <= count + 1),
        10 * power,
    )
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_labels(values: Sequence[Number]) -> list[str]:
    """Returns labels of ticks with the same number of decimals, or powers for very small values.

    >>> tick_labels([0.7, 0.75]), tick_labels([0.0, 200.0]), tick_labels([0.0, 0.0005])
    (['0.70', '0.75'], ['0', '200'], ['0', '5e-4'])
    """
    largest = max(map(abs, values), default=0.0)
    if 0 < largest < 0.002:
        return [
            f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e") if value else "0"
            for value in values
        ]
    digits = next(
        (
            digits
            for digits in range(6)
            if all(abs(round(value, digits) - value) < 1e-9 for value in values)
        ),
        6,
    )
    return [f"{value:,.{digits}f}" for value in values]


def horizontal_grid(
    values: Sequence[Number],
    y: Scale,
    start: Number = LEFT_MARGIN,
    end: Number = WIDTH - RIGHT_MARGIN,
) -> str:
    """Returns a horizontal line with its label for each value."""
    parts = []
    for value, text in zip(values, tick_labels(values), strict=True):
        parts.append(
            f'<line class="grid" x1="{start}" x2="{end:.1f}" y1="{y(value):.1f}"'
            f' y2="{y(value):.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{start - 8}" y="{y(value) + 4:.1f}"'
            f' text-anchor="end">{text}</text>'
        )
    return "".join(parts)
