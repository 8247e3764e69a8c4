"""Makes text of unknown origin printable, and formats the numbers of the report."""

import json
import re
import unicodedata
from typing import Any

import yaml
from markupsafe import Markup


def printable(value: Any) -> Any:
    r"""Returns text without control characters and without characters that change the direction of
    the text around them. Markup and numbers are returned unchanged.

    >>> printable("a\x1b[31m"), printable("\u202egpj.exe"), printable(3)
    ('a␛[31m', '�gpj.exe', 3)
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    if value.isprintable():
        return value
    text = value.encode("utf-8", "replace").decode("utf-8")
    return "".join(map(_printable_character, text))


def escape(value: Any) -> Markup:
    """Returns any value as HTML that contains only text.

    >>> escape("<script>")
    Markup('&lt;script&gt;')
    """
    return Markup.escape(printable(str(value)))


def short(text: str, characters: int = 220) -> str:
    """Returns the text on one line, cut to a number of characters.

    >>> short("Create a   disk", 9)
    'Create a…'
    """
    line = " ".join(text[: 8 * characters].split())
    return line if len(line) <= characters else line[: characters - 1].rstrip() + "…"


def thousands(number: int) -> str:
    """Formats an integer with commas between its thousands.

    >>> thousands(12345)
    '12,345'
    """
    return f"{number:,}"


def decimals(value: float, digits: int = 3) -> str:
    """Formats a number with `digits` decimals.

    >>> decimals(0.12345)
    '0.123'
    """
    return f"{value:.{digits}f}"


def with_sign(value: float, digits: int = 3) -> str:
    """Formats a number with its sign. Negative numbers have the mathematical minus.

    >>> with_sign(0.1234), with_sign(-0.1234)
    ('+0.123', '−0.123')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def probability(p_value: float) -> str:
    """Formats a p-value, as `p = 0.031` or `p < 0.001`.

    >>> probability(0.0314), probability(0.0001)
    ('p = 0.031', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def duration(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds.

    >>> duration(42.0), duration(200.0), duration(8000.0)
    ('42 s', '3 min 20 s', '2 h 13 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def metric_name(metric: str) -> str:
    """Returns the name of a metric as papers write it.

    >>> metric_name("ndcg@10"), metric_name("mrr@10"), metric_name("map"), metric_name("recall@100")
    ('nDCG@10', 'MRR@10', 'MAP', 'recall@100')
    """
    return metric.replace("ndcg", "nDCG").replace("mrr", "MRR").replace("map", "MAP")


def setting_text(value: Any) -> str:
    """Returns the value of a recipe's key as one may type it. What is not set in a list of maps is
    left out.

    >>> setting_text(1e-5), setting_text(None), setting_text("mean")
    ('1e-05', 'null', 'mean')
    >>> setting_text([{"kind": "wandb", "group": "search", "notes": None}])
    '[{kind: wandb, group: search}]'
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list | dict):
        return json.dumps(value)
    text = yaml.safe_dump(
        _without_null(value),
        default_flow_style=True,
        width=float("inf"),
        allow_unicode=True,
        sort_keys=False,
    )
    return text.strip()


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def code(text: str) -> Markup:
    """Returns a sentence as HTML, with text in backticks as code.

    >>> code("run `nearfar report`")
    Markup('run <code>nearfar report</code>')
    """
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(html)  # noqa: S704 - escaped above


def yaml_lines(text: str) -> Markup:
    """Returns YAML as HTML, with keys and comments in colour. The text is escaped first."""
    lines = [
        re.sub(r"^(\s*(?:- )?)([\w.-]+)(?=:)", r'\1<span class="k">\2</span>', str(escape(line)))
        for line in text.rstrip().split("\n")
    ]
    return _with_comments(lines)


def shell_lines(text: str) -> Markup:
    """Returns shell commands as HTML, with comments in colour."""
    return _with_comments([str(escape(line)) for line in text.split("\n")])


def _with_comments(lines: list[str]) -> Markup:
    html = "\n".join(
        f'<span class="c">{line}</span>' if line.lstrip().startswith("#") else line
        for line in lines
    )
    return Markup(html)  # noqa: S704 - the lines were escaped


def _printable_character(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))  # the symbol of the control character, such as ␛
    return " " if unicodedata.category(character).startswith("Z") else "\ufffd"
