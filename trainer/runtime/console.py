"""The output of a command: progress and messages go to standard error, results to standard output.

On a terminal one live line shows the current phase, how much of it is done, and how long it will
take. Without a terminal, a plain line is printed every ten seconds. Only the first rank prints. The
text of a run is also stored in its folder. Secrets are removed from all of it.
"""

import atexit
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from trainer.progress import listening
from trainer.runtime.display import Display, LineWriter
from trainer.storage.redaction import RedactedStream, redact, redact_values
from trainer.strategies.machine.own_rank import is_first_rank

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

TRANSCRIPT = "console.txt"
_display: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def console() -> Iterator[None]:
    """Within the block, the first rank shows progress, and no secret is printed.

    Its text is also stored in a file after a call of `keep_console`.
    """
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, RedactedStream(stdout, redact_values))
    if not is_first_rank(os.environ):
        sys.stderr = cast(TextIO, RedactedStream(stderr, redact))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = stdout, stderr
        return
    current = Display(stderr)
    token = _display.set(current)
    atexit.register(current.close)  # ranks exit without unwinding their stack
    sys.stderr = lines = LineWriter(current, stderr)
    try:
        with listening(current):
            yield
    except SystemExit:
        raise
    except BaseException:
        current.transcript.add(traceback.format_exc())
        raise
    finally:
        lines.finish()
        sys.stdout, sys.stderr = stdout, stderr
        _display.reset(token)
        current.close()
        atexit.unregister(current.close)


def say(text: str) -> None:
    """Prints a message about the work of a command, on the first rank only."""
    current = _display.get()
    if current is not None:
        current.line(text)
    elif _is_first():
        print(text, file=sys.stderr, flush=True)


def show(*parts: "RenderableType") -> None:
    """Prints a result to standard output, on the first rank only.

    The result of a run is in its folder too, so a run does not fail if it cannot be printed.
    """
    from rich.console import Console

    if not _is_first():
        return
    current = _display.get()
    if current is not None:
        current.pause()
        copy = StringIO()
        _print(Console(file=copy, width=100, color_system=None), parts)
        current.transcript.add(copy.getvalue().rstrip("\n"))
    try:
        _print(Console(), parts)
        sys.stdout.flush()
    except OSError as error:
        if current is None or not current.transcript.is_in_file:
            raise
        current.line(f"warning: the result cannot be printed: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(output: "Console", parts: "Sequence[RenderableType]") -> None:
    """Prints results. Lines are wrapped only on a terminal."""
    from rich.text import Text

    for part in parts:
        part = redact_values(part) if isinstance(part, str) else part
        output.print(part, soft_wrap=isinstance(part, str | Text) and not output.is_terminal)


def keep_console(folder: Path) -> None:
    """Stores the text of the console, from its beginning, in a run folder."""
    current = _display.get()
    if current is not None:
        current.transcript.keep_in(folder / TRANSCRIPT)


def _is_first() -> bool:
    """Returns True on the first rank, even if no launcher has exported its number."""
    collectives = sys.modules.get("trainer.collectives")
    return is_first_rank(os.environ) and (collectives is None or collectives.rank() == 0)
