"""Writes pages from templates. A page contains its style and sends no requests.

The environment makes every printed value printable and escapes it, so a template cannot forget it.
The content security policy of a page also forbids requests, and every script but ours, which sorts
the table of all queries.
"""

import base64
import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trainer.report import text
from trainer.storage.atomic import write_text

_TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Writes a page from a template and its values."""
    date = f"{datetime.now().astimezone():%d %B %Y, %H:%M %Z}"
    write_text(path, _environment().get_template(template).render(values, written_at=date))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=text.printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (
        text.code,
        text.decimals,
        text.duration,
        text.metric_name,
        text.probability,
        text.shell_lines,
        text.short,
        text.thousands,
        text.with_sign,
        text.yaml_lines,
    )
    environment.filters |= {function.__name__: function for function in filters}
    style, script = (
        (_TEMPLATES / file).read_text(encoding="utf-8") for file in ("style.css", "queries.js")
    )
    environment.globals |= {
        "style": Markup(style),  # noqa: S704 - our own file
        "script": Markup(script),  # noqa: S704 - our own file
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment
