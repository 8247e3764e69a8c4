"""Calls commands in the process of a test, or in an interpreter that has imported nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from click.testing import Result
from typer.testing import CliRunner


def command_caller(
    *verbs: Callable[..., None], must_succeed: bool = False
) -> Callable[..., Result]:
    """A function `call(verb, *arguments)` for two or more verbs, which returns the result.

    Exceptions of the command are raised.
    """
    app = typer.Typer(pretty_exceptions_enable=False)
    for verb in verbs:
        app.command()(verb)

    def call(*arguments: Any, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if must_succeed:
            assert result.exit_code == 0, result.output
        return result

    return call


def start(*words: str, folder: Path) -> tuple[int, bool, str]:
    """Runs `nearfar WORDS` in a new interpreter, in `folder`. Returns its exit code, whether it
    imported torch, and its standard error.
    """
    code = (
        "import sys; sys.argv[0] = 'nearfar'; from trainer.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
    )
    assert ended.stdout, ended.stderr
    exit_code, has_torch = ended.stdout.split()
    return int(exit_code), has_torch == "True", ended.stderr


def remove_layers_field(index: Path) -> None:
    """Removes the field `layers` from a manifest, as in indexes written before it existed."""
    content = _manifest_without_hash(index)
    assert content.pop("layers") is None
    (index / "manifest.json").write_text(json.dumps(content))


def change_manifest(index: Path, **change: Any) -> None:
    """Changes fields of the manifest of an index, and removes its hash."""
    (index / "manifest.json").write_text(json.dumps(_manifest_without_hash(index) | change))


def _manifest_without_hash(index: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((index / "manifest.json").read_text())
    content.pop("sha256", None)
    return content
