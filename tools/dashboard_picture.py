"""Draws the dashboard's curves from the log of one run: `python tools/dashboard_picture.py RUN`.

It writes docs/images/dashboard.svg, with the sections and curves of the W&B workspace.
"""

import sys
from html import escape
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
WIDTH, HEIGHT, GAP, COLUMNS, LEFT = 290, 150, 14, 3, 20
COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed")
NOTE = "Drawn from the log of one run, in the layout of the workspace. This is no picture of W&B."


def main() -> None:
    """Writes the picture."""
    from trainer.tracking.dashboard.panels import SECTIONS
    from trainer.tracking.sync import read_values

    values = read_values(Path(sys.argv[1]) / "log.jsonl").values
    parts, top = [_text(LEFT, 24, NOTE, "note")], 44
    for section in SECTIONS:
        curves = [
            (panel.title, lines)
            for panel in section.panels
            if panel.kind == "line" and (lines := _lines(values, panel.metrics))
        ]
        if not curves:
            continue
        parts.append(_text(LEFT, top + 14, section.title, "section"))
        top += 26
        for number, (title, lines) in enumerate(curves):
            row, column = divmod(number, COLUMNS)
            place = LEFT + column * (WIDTH + GAP), top + row * (HEIGHT + GAP)
            parts += _panel(*place, title, lines)
        top += -(-len(curves) // COLUMNS) * (HEIGHT + GAP) + 8
    width = 2 * LEFT + COLUMNS * (WIDTH + GAP) - GAP
    style = (
        "text{font:11px system-ui,sans-serif;fill:#374151}.title{font-weight:600}"
        ".section{font-size:15px;font-weight:700}.note{font-style:italic}"
    )
    (ROOT / "docs/images/dashboard.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#f3f4f6"/>'
        f"{''.join(parts)}</svg>\n",
        encoding="utf-8",
    )


def _lines(values, metrics):
    """The name and points of each metric that the log has."""
    points = {
        metric: [(step, row[metric]) for step, row in values.items() if metric in row]
        for metric in metrics
    }
    return {metric.partition("/")[2]: line for metric, line in points.items() if len(line) > 1}


def _panel(left, top, title, lines):
    numbers = [value for _, value in chain(*lines.values())]
    low, high = min(numbers), max(numbers)
    last = max(step for step, _ in chain(*lines.values())) or 1
    span = (high - low) or 1

    def path(line):
        places = (
            f"{left + 46 + step / last * (WIDTH - 58):.1f},"
            f"{top + HEIGHT - 24 - (value - low) / span * (HEIGHT - 62):.1f}"
            for step, value in line
        )
        return " ".join(places)

    yield (
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="#fff"'
        ' stroke="#d1d5db"/>'
    )
    yield _text(left + 10, top + 18, title, "title")
    yield _text(left + 6, top + 44, _number(high))
    yield _text(left + 6, top + HEIGHT - 22, _number(low))
    yield _text(left + WIDTH - 60, top + HEIGHT - 6, f"step {last}")
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number]
        yield f'<polyline points="{path(line)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if len(lines) > 1:
            label = name.removeprefix("gradient_norm_").removesuffix("_layers")
            x = left + 46 + 60 * number
            yield f'<text x="{x}" y="{top + 32}" style="fill:{colour}">{escape(label)}</text>'


def _number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _text(x, y, text, kind=""):
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>'


if __name__ == "__main__":
    main()
