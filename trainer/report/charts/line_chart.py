"""Charts of values over the steps of a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trainer.report.charts.svg import (
    BOTTOM_MARGIN,
    HEIGHT,
    LEFT_MARGIN,
    RIGHT_MARGIN,
    TOP_MARGIN,
    WIDTH,
    Number,
    Scale,
    draw,
    horizontal_grid,
    linear_scale,
    tick_labels,
    ticks,
)
from trainer.report.text import escape

_MAX_POINTS = 400


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. `style` is a class of the style sheet, and None is a gap."""

    steps: Sequence[Number]
    values: Sequence[Number | None]
    style: str = "main"
    dots: bool = False

    def points(self) -> list[tuple[Number, Number]]:
        """Returns the steps and values without gaps."""
        return [
            (step, value)
            for step, value in zip(self.steps, self.values, strict=True)
            if value is not None
        ]


def moving_average(values: Sequence[Number | None], weight: Number) -> list[Number | None]:
    """Returns the exponential moving average, corrected for its start as in Adam. Gaps stay gaps.

    >>> moving_average([4.0, 2.0, None, 2.0], 0.5)
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


def line_chart(
    title: str,
    lines: Sequence[Line],
    mark: tuple[Number, Number, str] | None = None,
    from_zero: bool = False,
) -> Markup:
    """Draws lines over steps, with an optional marked point. Empty if there are no values."""
    lines = [_downsample(line) for line in lines]
    points = [point for line in lines for point in line.points()]
    if not points:
        return Markup()
    x_low, x_high = min(step for step, _ in points), max(step for step, _ in points)
    y_low, y_high = _value_range([value for _, value in points], from_zero)
    x = linear_scale(x_low, x_high, LEFT_MARGIN, WIDTH - RIGHT_MARGIN)
    y = linear_scale(y_low, y_high, HEIGHT - BOTTOM_MARGIN, TOP_MARGIN)
    parts = [horizontal_grid(ticks(y_low, y_high), y), _step_axis(x_low, x_high, x)]
    for line in lines:
        parts.append(f'<path class="line {line.style}" d="{_path(line, x, y)}"/>')
        if line.dots:
            parts += [
                f'<circle class="dot {line.style}" cx="{x(step):.1f}" cy="{y(value):.1f}"'
                f' r="3"><title>step {step:.0f}: {value:.4g}</title></circle>'
                for step, value in line.points()
            ]
    if mark is not None:
        parts.append(_mark(x(mark[0]), y(mark[1]), mark[2]))
    summary = (
        f"{title}: from {points[0][1]:.4g} at step {points[0][0]:.0f} to {points[-1][1]:.4g} at"
        f" step {points[-1][0]:.0f}"
    )
    return draw(summary, parts)


def _value_range(values: Sequence[Number], from_zero: bool) -> tuple[Number, Number]:
    """Returns the range of the y axis, a little larger than that of the values."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 0.1
    return (0.0 if from_zero and low >= 0 else low - margin), high + margin


def _downsample(line: Line) -> Line:
    """Reduces a line to at most _MAX_POINTS points, each the mean of its neighbours.

    So the page of a long run stays small.
    """
    size = math.ceil(len(line.steps) / _MAX_POINTS)
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


def _step_axis(low: Number, high: Number, x: Scale) -> str:
    places = [step for step in ticks(low, high, 5) if step == round(step)]
    labels = zip(places, tick_labels(places), strict=True)
    return "".join(
        f'<text class="tick" x="{x(step):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{text}</text>'
        for step, text in labels
    )


def _mark(x: Number, y: Number, label: str) -> str:
    anchor = "end" if x > WIDTH / 2 else "start"
    side = -8 if anchor == "end" else 8
    return (
        f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/><text class="note"'
        f' x="{x + side:.1f}" y="{y - 10:.1f}" text-anchor="{anchor}">{escape(label)}</text>'
    )
