"""Text into HTML that cannot be anything but text, and the few shapes of number the report
prints.
"""

import html
import unicodedata
from collections.abc import Iterable
from typing import Any


def escaped(text: Any) -> str:
    r"""`text` as HTML: no markup, no control characters, nothing that turns the direction of the
    text around it.

    >>> escaped("<script>") + escaped("a\x1b[31m") + escaped("\u202egpj.exe")
    '&lt;script&gt;a␛[31m�gpj.exe'
    """
    clean = str(text).encode("utf-8", "replace").decode("utf-8")
    return html.escape("".join(_visible(character) for character in clean), quote=True)


def short(text: str, characters: int = 220) -> str:
    """The text as one line of at most so many characters.

    >>> short("Create a   disk", 9)
    'Create a…'
    """
    line = " ".join(text[: 8 * characters].split())
    return line if len(line) <= characters else line[: characters - 1].rstrip() + "…"


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, the real minus.

    >>> signed(0.1234), signed(-0.1234)
    ('+0.123', '−0.123')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def probability(p_value: float) -> str:
    """`p = 0.03`, or `p < 0.001`.

    >>> probability(0.0314), probability(0.0001)
    ('p = 0.031', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(42.0), duration(200.0), duration(8000.0)
    ('42 s', '3 min 20 s', '2 h 13 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def metric_name(metric: str) -> str:
    """As the papers write it.

    >>> metric_name("ndcg@10"), metric_name("mrr@10"), metric_name("map"), metric_name("recall@100")
    ('nDCG@10', 'MRR@10', 'MAP', 'recall@100')
    """
    return metric.replace("ndcg", "nDCG").replace("mrr", "MRR").replace("map", "MAP")


def _visible(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))  # the sign for it, as in ␛
    return " " if unicodedata.category(character).startswith("Z") else "\ufffd"


def count_table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """A table whose rows are a name, its explanation, then counts."""
    head = "".join(
        f'<th scope="col"{" class=number" if place else ""}>{escaped(name)}</th>'
        for place, name in enumerate(header)
    )
    lines = []
    for name, explained, *numbers in rows:
        small = f"<small>{escaped(explained)}</small>" if explained else ""
        cells = "".join(f'<td class="number">{number:,}</td>' for number in numbers)
        lines.append(f"<tr><td>{escaped(name)}{small}</td>{cells}</tr>")
    return (
        '<div class="card'
        f' scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )
