"""Charts that compare systems: their scores with intervals, and the changes per query."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from trainer.evaluation.results import Interval
from trainer.report.charts.svg import (
    LEFT_MARGIN,
    Number,
    Scale,
    draw,
    horizontal_grid,
    linear_scale,
    tick_labels,
    ticks,
)
from trainer.report.text import escape

_BIN_WIDTH = 0.1
_ROW_HEIGHT = 46
_HISTOGRAM_HEIGHT, _HISTOGRAM_BOTTOM = 210, 34


def interval_chart(title: str, rows: Sequence[tuple[str, Interval]]) -> Markup:
    """Draws a dot with whiskers per system and highlights the last one. Empty without systems."""
    if not rows:
        return Markup()
    return _interval_chart(title, rows, 960, 190) + _interval_chart(title, rows, 360, 96)


def _interval_chart(
    title: str, rows: Sequence[tuple[str, Interval]], width: int, left_margin: int
) -> Markup:
    height = _ROW_HEIGHT * len(rows) + 34
    low = min(interval.low for _, interval in rows)
    high = max(interval.high for _, interval in rows)
    margin = 0.12 * (high - low or 0.1)
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    x = linear_scale(low, high, left_margin, width - 66)
    parts = _vertical_grid(ticks(low, high, width // 130), x, height)
    for number, (name, interval) in enumerate(rows):
        style = "main" if number == len(rows) - 1 else "other"
        middle = _ROW_HEIGHT * number + _ROW_HEIGHT / 2 + 2
        parts += _interval_row(name, interval, x, middle, left_margin, style)
    summary = f"{title}: " + "; ".join(
        f"{name} {interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"
        for name, interval in rows
    )
    return draw(summary, parts, width, height)


def _vertical_grid(places: Sequence[Number], x: Scale, height: int) -> list[str]:
    parts = []
    for tick, text in zip(places, tick_labels(places), strict=True):
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 28}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{height - 8}"'
            f' text-anchor="middle">{text}</text>'
        )
    return parts


def _interval_row(
    name: str, interval: Interval, x: Scale, middle: float, left_margin: int, style: str
) -> list[str]:
    """Draws name, whiskers, dot and mean of one system."""
    ends = "".join(f"M{x(end):.1f} {middle - 7:.1f}v14" for end in (interval.low, interval.high))
    letters = left_margin // 7
    label = name if len(name) <= letters else name[: letters - 1] + "…"
    reading = (
        f"{escape(name)}: {interval.mean:.4f}, 95 % interval {interval.low:.4f} to"
        f" {interval.high:.4f}"
    )
    return [
        f'<text class="label {style}" x="{left_margin - 12}" y="{middle + 5:.1f}"'
        f' text-anchor="end">{escape(label)}</text>',
        f'<path class="whisker {style}" d="M{x(interval.low):.1f}'
        f' {middle:.1f}H{x(interval.high):.1f}{ends}"/>',
        f'<circle class="dot {style}" cx="{x(interval.mean):.1f}" cy="{middle:.1f}"'
        f' r="6"><title>{reading}</title></circle>',
        f'<text class="value {style}" x="{x(interval.high) + 12:.1f}"'
        f' y="{middle + 5:.1f}">{interval.mean:.3f}</text>',
    ]


def change_histogram(title: str, differences: Sequence[Number]) -> Markup:
    """Draws how many queries changed by how much, in steps of 0.1, without unchanged queries."""
    counts: dict[int, int] = {}
    for difference in differences:
        if abs(difference) > 1e-9:
            place = math.copysign(
                min(math.ceil(abs(difference) / _BIN_WIDTH - 1e-6), 10), difference
            )
            counts[int(place)] = counts.get(int(place), 0) + 1
    if not counts:
        return Markup()
    wide = _change_histogram(title, counts, 960, LEFT_MARGIN)
    return wide + _change_histogram(title, counts, 360, 28)


def _change_histogram(title: str, counts: dict[int, int], width: int, margin: int) -> Markup:
    height, base = _HISTOGRAM_HEIGHT, _HISTOGRAM_HEIGHT - _HISTOGRAM_BOTTOM
    bar_width = (width - 2 * margin) / 20
    largest = max(counts.values())
    y = linear_scale(0, largest * 1.12, base, 8)
    whole_ticks = [tick for tick in ticks(0, largest * 1.12, 3) if tick == round(tick)]
    parts = [horizontal_grid(whole_ticks, y, margin, width - margin)]
    for place in [*range(-10, 0), *range(1, 11)]:
        if count := counts.get(place, 0):
            left_edge = margin + (place + 10 - (place > 0)) * bar_width
            parts += _bar(place, count, left_edge, bar_width, y(count))
    for tenth in range(-10, 11, 2 if width > 600 else 5):
        label = "0" if tenth == 0 else f"{tenth / 10:+.1f}".replace("-", "−")
        parts.append(
            f'<text class="tick" x="{margin + (tenth + 10) * bar_width:.1f}" y="{height - 12}"'
            f' text-anchor="middle">{label}</text>'
        )
    middle = margin + 10 * bar_width
    parts.append(f'<line class="axis" x1="{middle:.1f}" x2="{middle:.1f}" y1="4" y2="{base}"/>')
    better, worse = (
        sum(count for place, count in counts.items() if (place > 0) == is_better)
        for is_better in (True, False)
    )
    return draw(f"{title}: {better} queries better, {worse} worse", parts, width, height)


def _bar(place: int, count: int, left_edge: float, bar_width: float, top: Number) -> list[str]:
    """Draws the bar and the count of the queries whose change is in one bin."""
    ends = sorted((abs(place) - 1, abs(place)))
    sign = "−" if place < 0 else "+"
    reading = f"{count} queries changed by {sign}{ends[0] / 10:.1f} to {sign}{ends[1] / 10:.1f}"
    bar_height = _HISTOGRAM_HEIGHT - _HISTOGRAM_BOTTOM - top
    style = "worse" if place < 0 else "better"
    return [
        f'<rect class="bar {style}" x="{left_edge + bar_width / 20:.1f}" y="{top:.1f}"'
        f' width="{0.9 * bar_width:.1f}" height="{bar_height:.1f}" rx="2">'
        f"<title>{reading}</title></rect>",
        f'<text class="count" x="{left_edge + bar_width / 2:.1f}" y="{top - 5:.1f}"'
        f' text-anchor="middle">{count}</text>',
    ]
