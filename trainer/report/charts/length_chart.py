"""The histogram of text lengths."""

from collections.abc import Sequence

from markupsafe import Markup

from trainer.report.charts.svg import (
    BOTTOM_MARGIN,
    HEIGHT,
    LEFT_MARGIN,
    RIGHT_MARGIN,
    TOP_MARGIN,
    WIDTH,
    draw,
    horizontal_grid,
    linear_scale,
    ticks,
)


def length_chart(title: str, bin_tokens: int, bins: Sequence[int], cut_texts: int) -> Markup:
    """Draws a bar per bin of `bin_tokens` tokens, and one for the texts that are cut, if any.

    Empty without texts.
    """
    counts = [*bins, cut_texts] if cut_texts else list(bins)
    if not sum(counts):
        return Markup()
    base, top = HEIGHT - BOTTOM_MARGIN, 1.12 * max(counts)
    y = linear_scale(0, top, base, TOP_MARGIN)
    width = (WIDTH - LEFT_MARGIN - RIGHT_MARGIN) / len(counts)
    parts = [horizontal_grid([tick for tick in ticks(0, top, 3) if tick == round(tick)], y)]
    spacing = -(-len(bins) // 5)
    for number, count in enumerate(counts):
        is_cut, left_edge = number == len(bins), LEFT_MARGIN + number * width
        end = (number + 1) * bin_tokens
        name = "cut" if is_cut else f"{end - bin_tokens + 1} to {end} tokens"
        parts.append(
            f'<rect class="bar {"worse" if is_cut else "plain"}" x="{left_edge + 0.05 * width:.1f}"'
            f' y="{y(count):.1f}" width="{0.9 * width:.1f}" height="{base - y(count):.1f}" rx="2">'
            f"<title>{count} texts: {name}</title></rect>"
        )
        label = "cut" if is_cut else f"{end:,}" if number % spacing == spacing - 1 else ""
        if label and (is_cut or not cut_texts or number < len(bins) - 1):
            parts.append(
                f'<text class="tick" x="{left_edge + width * (0.5 if is_cut else 1):.1f}"'
                f' y="{HEIGHT - 10}" text-anchor="middle">{label}</text>'
            )
    return draw(f"{title}: {sum(counts)} texts, {cut_texts} cut", parts)
