"""Templates to pages: each holds its style, runs nothing and asks nothing of the network.

Every value that a template prints is made printable and escaped by the environment, so a template
cannot forget it. A page also forbids its browser scripts and requests (its content security
policy).
"""

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
    """Writes the page that a template makes of `values`."""
    now = f"{datetime.now().astimezone():%d %B %Y, %H:%M %Z}"
    write_text(path, _environment().get_template(template).render(values, written_at=now))


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
        text.duration,
        text.fixed,
        text.grouped,
        text.metric_name,
        text.probability,
        text.shell_lines,
        text.short,
        text.signed,
        text.yaml_lines,
    )
    environment.filters |= {each.__name__: each for each in filters}
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    environment.globals["style"] = Markup(style)  # noqa: S704 - our own file
    return environment
