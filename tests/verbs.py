"""Calls of the command line within the process of a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from click.testing import Result
from typer.testing import CliRunner


def caller(*verbs: Callable[..., None], must_end_well: bool = False) -> Callable[..., Result]:
    """`call(verb, *arguments)` of two or more verbs: the result; an error of ours is raised."""
    app = typer.Typer(pretty_exceptions_enable=False)
    for verb in verbs:
        app.command()(verb)

    def call(*arguments: Any, stdin: str | None = None) -> Result:
        found = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        if must_end_well:
            assert found.exit_code == 0, found.output
        return found

    return call


def forget_layers(index: Path) -> None:
    """Makes the manifest of an index of all layers what it was before it had a field for them."""
    before = _unsealed(index)
    assert before.pop("layers") is None
    (index / "manifest.json").write_text(json.dumps(before))


def altered(index: Path, **change: Any) -> None:
    """Makes the manifest of an index say something else, as one without a seal."""
    (index / "manifest.json").write_text(json.dumps(_unsealed(index) | change))


def _unsealed(index: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((index / "manifest.json").read_text())
    content.pop("sha256")
    return content
