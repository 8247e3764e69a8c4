"""Charts as plain SVG without scripts. They have the colours of the page, light or dark, and a
title that screen readers read out.

Every string that goes into a chart passes through `escaped`; everything else is a number that is
formatted here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trainer.evaluation.results import Interval
from trainer.report.text import escaped

WIDTH, HEIGHT = 480, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 30
_MOST_POINTS = 400
_BIN_WIDTH = 0.1

Number = int | float
Scale = Callable[[Number], Number]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: `style` is a class of the style sheet; a None value is a gap."""

    steps: Sequence[Number]
    values: Sequence[Number | None]
    style: str = "main"
    dots: bool = False


def smoothed(values: Sequence[Number | None], weight: Number) -> list[Number | None]:
    """Exponential moving average, corrected for its start (as Adam's); gaps stay gaps.

    >>> smoothed([4.0, 2.0, None, 2.0], 0.5)
    [4.0, 2.6666666666666665, None, 2.2857142857142856]
    """
    average, mass = 0.0, 0.0
    result: list[Number | None] = []
    for value in values:
        if value is None:
            result.append(None)
            continue
        average, mass = weight * average + (1 - weight) * value, weight * mass + (1 - weight)
        result.append(average / mass)
    return result


def ticks(low: Number, high: Number, count: int = 4) -> list[Number]:
    """Round numbers inside a range, about `count` of them.

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


def line_chart(
    title: str,
    lines: Sequence[Line],
    mark: tuple[Number, Number, str] | None = None,
    from_zero: bool = False,
) -> Markup:
    """Lines over steps, with an optional marked point. Empty when there is nothing to draw."""
    lines = [_thinned(line) for line in lines]
    points = [
        (step, value)
        for line in lines
        for step, value in zip(line.steps, line.values, strict=True)
        if value is not None
    ]
    if not points:
        return Markup()
    x_low, x_high = min(step for step, _ in points), max(step for step, _ in points)
    y_low, y_high = _padded([value for _, value in points], from_zero)
    x = _scale(x_low, x_high, _LEFT, WIDTH - _RIGHT)
    y = _scale(y_low, y_high, HEIGHT - _BOTTOM, _TOP)
    parts = [_horizontal_grid(ticks(y_low, y_high), y), _step_axis(x_low, x_high, x)]
    for line in lines:
        parts.append(f'<path class="line {line.style}" d="{_path(line, x, y)}"/>')
        if line.dots:
            dots = [
                (step, value)
                for step, value in zip(line.steps, line.values, strict=True)
                if value is not None
            ]
            parts += [
                f'<circle class="dot {line.style}" cx="{x(step):.1f}" cy="{y(value):.1f}"'
                f' r="3"><title>step {step:.0f}: {value:.4g}</title></circle>'
                for step, value in dots
            ]
    if mark is not None:
        parts.append(_mark(x(mark[0]), y(mark[1]), mark[2]))
    summary = (
        f"{title}: from {points[0][1]:.4g} at step {points[0][0]:.0f} to {points[-1][1]:.4g} at"
        f" step {points[-1][0]:.0f}"
    )
    return _svg(summary, parts)


def interval_chart(title: str, rows: Sequence[tuple[str, Interval]]) -> Markup:
    """A dot with whiskers for each system, the last one marked. Empty without systems."""
    if not rows:
        return Markup()
    return _interval_chart(title, rows, 960, 190) + _interval_chart(title, rows, 360, 96)


def _interval_chart(
    title: str, rows: Sequence[tuple[str, Interval]], width: int, left: int
) -> Markup:
    row_height = 46
    height = row_height * len(rows) + 34
    low, high = min(each.low for _, each in rows), max(each.high for _, each in rows)
    margin = 0.12 * (high - low or 0.1)
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    x = _scale(low, high, left, width - 66)
    parts = []
    places = ticks(low, high, width // 130)
    for tick, text in zip(places, _labels(places), strict=True):
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 28}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{height - 8}"'
            f' text-anchor="middle">{text}</text>'
        )
    for number, (name, each) in enumerate(rows):
        style = "main" if number == len(rows) - 1 else "other"
        middle = row_height * number + row_height / 2 + 2
        ends = "".join(f"M{x(end):.1f} {middle - 7:.1f}v14" for end in (each.low, each.high))
        letters = left // 7
        label = name if len(name) <= letters else name[: letters - 1] + "…"
        parts.append(
            f'<text class="label {style}" x="{left - 12}" y="{middle + 5:.1f}"'
            f' text-anchor="end">{escaped(label)}</text>'
        )
        parts.append(
            f'<path class="whisker {style}" d="M{x(each.low):.1f}'
            f' {middle:.1f}H{x(each.high):.1f}{ends}"/>'
        )
        reading = (
            f"{escaped(name)}: {each.mean:.4f}, 95 % interval {each.low:.4f} to {each.high:.4f}"
        )
        parts.append(
            f'<circle class="dot {style}" cx="{x(each.mean):.1f}" cy="{middle:.1f}"'
            f' r="6"><title>{reading}</title></circle>'
        )
        parts.append(
            f'<text class="value {style}" x="{x(each.high) + 12:.1f}"'
            f' y="{middle + 5:.1f}">{each.mean:.3f}</text>'
        )
    summary = f"{title}: " + "; ".join(
        f"{name} {each.mean:.3f} ({each.low:.3f} to {each.high:.3f})" for name, each in rows
    )
    return _svg(summary, parts, width, height)


def change_histogram(title: str, differences: Sequence[Number]) -> Markup:
    """How many queries changed by how much, in steps of 0.1. Unchanged queries are left out."""
    counts: dict[int, int] = {}
    for difference in differences:
        if abs(difference) > 1e-9:
            place = math.copysign(
                min(math.ceil(abs(difference) / _BIN_WIDTH - 1e-6), 10), difference
            )
            counts[int(place)] = counts.get(int(place), 0) + 1
    if not counts:
        return Markup()
    return _change_histogram(title, counts, 960, _LEFT) + _change_histogram(title, counts, 360, 28)


def _change_histogram(title: str, counts: dict[int, int], width: int, margin: int) -> Markup:
    height, bottom = 210, 34
    bar = (width - 2 * margin) / 20
    most = max(counts.values())
    y = _scale(0, most * 1.12, height - bottom, 8)
    parts = [
        _horizontal_grid(
            [tick for tick in ticks(0, most * 1.12, 3) if tick == round(tick)],
            y,
            margin,
            width - margin,
        )
    ]
    for place in [*range(-10, 0), *range(1, 11)]:
        count = counts.get(place, 0)
        left = margin + (place + 10 - (place > 0)) * bar
        if count:
            ends = sorted((abs(place) - 1, abs(place)))
            sign = "−" if place < 0 else "+"
            reading = (
                f"{count} queries changed by {sign}{ends[0] / 10:.1f} to {sign}{ends[1] / 10:.1f}"
            )
            top = y(count)
            bar_height = height - bottom - top
            style = "worse" if place < 0 else "better"
            parts.append(
                f'<rect class="bar {style}" x="{left + bar / 20:.1f}" y="{top:.1f}"'
                f' width="{0.9 * bar:.1f}" height="{bar_height:.1f}" rx="2">'
                f"<title>{reading}</title></rect>"
            )
            parts.append(
                f'<text class="count" x="{left + bar / 2:.1f}" y="{top - 5:.1f}"'
                f' text-anchor="middle">{count}</text>'
            )
    for tenth in range(-10, 11, 2 if width > 600 else 5):
        label = "0" if tenth == 0 else f"{tenth / 10:+.1f}".replace("-", "−")
        parts.append(
            f'<text class="tick" x="{margin + (tenth + 10) * bar:.1f}" y="{height - 12}"'
            f' text-anchor="middle">{label}</text>'
        )
    middle = margin + 10 * bar
    parts.append(
        f'<line class="axis" x1="{middle:.1f}" x2="{middle:.1f}" y1="4" y2="{height - bottom}"/>'
    )
    better, worse = (
        sum(count for place, count in counts.items() if (place > 0) == is_better)
        for is_better in (True, False)
    )
    return _svg(f"{title}: {better} queries better, {worse} worse", parts, width, height)


def _svg(
    summary: str,
    parts: Sequence[str],
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Markup:
    """A chart that fills its card. Of two charts of the same thing, the style sheet shows the wide
    or the narrow one.
    """
    style = "wide" if width > WIDTH else "narrow" if width < WIDTH else "small"
    svg = (
        f'<svg class="chart {style}" viewBox="0 0 {width} {height}" role="img"'
        f' aria-label="{escaped(summary)}">{"".join(parts)}</svg>'
    )
    return Markup(svg)  # noqa: S704 - every string was escaped


def _scale(low: Number, high: Number, start: Number, end: Number) -> Scale:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _padded(values: Sequence[Number], from_zero: bool) -> tuple[Number, Number]:
    """The y range, with a little air."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 0.1
    return (0.0 if from_zero and low >= 0 else low - margin), high + margin


def _thinned(line: Line) -> Line:
    """At most _MOST_POINTS points, each the mean of its neighbours: the page of a long run stays
    small.
    """
    size = math.ceil(len(line.steps) / _MOST_POINTS)
    if size <= 1:
        return line
    steps, values = [], []
    for start in range(0, len(line.steps), size):
        present = [value for value in line.values[start : start + size] if value is not None]
        steps.append(line.steps[min(start + size, len(line.steps)) - 1])
        values.append(sum(present) / len(present) if present else None)
    return Line(steps, values, line.style, line.dots)


def _path(line: Line, x: Scale, y: Scale) -> str:
    commands, pen = [], "M"
    for step, value in zip(line.steps, line.values, strict=True):
        if value is None:
            pen = "M"
            continue
        commands.append(f"{pen}{x(step):.1f} {y(value):.1f}")
        pen = "L"
    return "".join(commands)


def _horizontal_grid(
    values: Sequence[Number], y: Scale, start: Number = _LEFT, end: Number = WIDTH - _RIGHT
) -> str:
    parts = []
    for value, text in zip(values, _labels(values), strict=True):
        parts.append(
            f'<line class="grid" x1="{start}" x2="{end:.1f}" y1="{y(value):.1f}"'
            f' y2="{y(value):.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{start - 8}" y="{y(value) + 4:.1f}"'
            f' text-anchor="end">{text}</text>'
        )
    return "".join(parts)


def _step_axis(low: Number, high: Number, x: Scale) -> str:
    places = [step for step in ticks(low, high, 5) if step == round(step)]
    labels = zip(places, _labels(places), strict=True)
    return "".join(
        f'<text class="tick" x="{x(step):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{text}</text>'
        for step, text in labels
    )


def _mark(x: Number, y: Number, label: str) -> str:
    anchor = "end" if x > WIDTH / 2 else "start"
    side = -8 if anchor == "end" else 8
    return (
        f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/><text class="note"'
        f' x="{x + side:.1f}" y="{y - 10:.1f}" text-anchor="{anchor}">{escaped(label)}</text>'
    )


def _labels(values: Sequence[Number]) -> list[str]:
    """The ticks' numbers, all with the same digits after the point; powers for the very small.

    >>> _labels([0.7, 0.75]), _labels([0.0, 200.0]), _labels([0.0, 0.0005])
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
