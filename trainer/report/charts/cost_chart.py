"""The chart of a selection: what systems find against the time of a search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trainer.evaluation.results import Interval
from trainer.report.charts.svg import (
    Number,
    Scale,
    draw,
    horizontal_grid,
    linear_scale,
    tick_labels,
    ticks,
)
from trainer.report.text import escape, short

_HEIGHT, _BOTTOM, _LEFT_MARGIN = 340, 46, 52
_NAME_LENGTH = 34


@dataclass(frozen=True, slots=True)
class CostPoint:
    """A system in the chart."""

    name: str
    quality: Interval
    latency_ms: float
    is_efficient: bool
    """Whether no other system is both better and quicker."""


def cost_chart(title: str, points: Sequence[CostPoint]) -> Markup:
    """Draws a dot with its interval per system, over milliseconds on a logarithmic scale. Efficient
    systems are highlighted and joined. Empty without systems.
    """
    if not points:
        return Markup()
    return _cost_chart(title, points, 960) + _cost_chart(title, points, 360)


def _cost_chart(title: str, points: Sequence[CostPoint], width: int) -> Markup:
    milliseconds = [math.log10(max(point.latency_ms, 1e-3)) for point in points]
    low, high = min(point.quality.low for point in points), max(p.quality.high for p in points)
    margin = 0.06 * (high - low or 0.1)
    y = linear_scale(low - margin, high + margin, _HEIGHT - _BOTTOM, 14)
    x_low, x_high = min(milliseconds) - 0.25, max(milliseconds) + 0.25
    x = linear_scale(x_low, x_high, _LEFT_MARGIN, width - 14)
    parts = [
        horizontal_grid(ticks(low, high), y, _LEFT_MARGIN, width - 14),
        *_decades(x_low, x_high, x, width),
        _frontier(points, x, y),
    ]
    names = _name_places(points, x, y)
    for point, value in zip(points, milliseconds, strict=True):
        parts += _mark(point, x(value), y)
    for point, value, place in zip(points, milliseconds, names, strict=True):
        parts.append(_name(point, x(value), place, width))  # above all marks
    summary = f"{title}: " + "; ".join(
        f"{point.name} {point.quality.mean:.3f} at {point.latency_ms:.1f} ms" for point in points
    )
    return draw(summary, parts, width, _HEIGHT)


def _decades(low: Number, high: Number, x: Scale, width: int) -> list[str]:
    """Returns ticks at 1, 2 and 5 times the powers of ten, and the unit."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    values = [value for value in values if low <= math.log10(value) <= high]
    if len(values) > width / 70:
        values = [value for value in values if f"{value:e}".startswith("1")] or values[:1]
    base = _HEIGHT - _BOTTOM
    parts = [
        f'<text class="tick" x="{x(math.log10(value)):.1f}" y="{base + 18}"'
        f' text-anchor="middle">{tick_labels([value])[0]}</text>'
        for value in values
    ]
    unit = "milliseconds per search, median"
    parts.append(
        f'<text class="tick" x="{width - 14}" y="{base + 38}" text-anchor="end">{unit}</text>'
    )
    return parts


def _frontier(points: Sequence[CostPoint], x: Scale, y: Scale) -> str:
    efficient = sorted(
        (point for point in points if point.is_efficient), key=lambda point: point.latency_ms
    )
    places = [
        f"{x(math.log10(max(point.latency_ms, 1e-3))):.1f} {y(point.quality.mean):.1f}"
        for point in efficient
    ]
    return f'<path class="line other" d="M{" L".join(places)}"/>'


def _name_places(points: Sequence[CostPoint], x: Scale, y: Scale) -> list[Number]:
    """Returns the heights of the names, which keep a distance from each other."""
    places: dict[int, Number] = {}
    former = -math.inf
    for number in sorted(range(len(points)), key=lambda number: y(points[number].quality.mean)):
        former = max(former + 17, y(points[number].quality.mean) - 8)
        places[number] = former
    return [places[number] for number in range(len(points))]


def _mark(point: CostPoint, x: Number, y: Scale) -> list[str]:
    style = _style(point)
    return [
        f'<path class="whisker {style}" d="M{x:.1f} {y(point.quality.low):.1f}'
        f'V{y(point.quality.high):.1f}"/>',
        f'<circle class="dot {style}" cx="{x:.1f}" cy="{y(point.quality.mean):.1f}" r="6"/>',
    ]


def _name(point: CostPoint, x: Number, y: Number, width: int) -> str:
    is_right = x > width / 2
    anchor, place = ("end", x - 10) if is_right else ("start", x + 10)
    name = escape(short(point.name, _NAME_LENGTH if width > 500 else 20))
    return (
        f'<text class="label {_style(point)}" x="{place:.1f}" y="{y:.1f}"'
        f' text-anchor="{anchor}">{name}</text>'
    )


def _style(point: CostPoint) -> str:
    return "main" if point.is_efficient else "other"
