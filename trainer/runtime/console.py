"""Where a command speaks: progress and messages go to standard error, results to standard output.

On a terminal one live line says what is done, how far it is, and how long it will take. Elsewhere a
plain line says so every ten seconds. Only the first rank speaks. The text of a run is kept in its
folder, without secrets.
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
from typing import TYPE_CHECKING

from trainer.progress import listening
from trainer.runtime.display import Display, LineWriter
from trainer.strategies.machine.own_rank import is_first_rank

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

TRANSCRIPT = "console.txt"
_display: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def console() -> Iterator[None]:
    """Within the block the first rank shows progress, and has its text kept once
    `keep_console` has named a file.
    """
    if not is_first_rank(os.environ):
        yield
        return
    stream = sys.stderr
    current = Display(stream)
    token = _display.set(current)
    atexit.register(current.close)  # ranks leave without unwinding their stack
    sys.stderr = lines = LineWriter(current, stream)
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
        sys.stderr = stream
        _display.reset(token)
        current.close()
        atexit.unregister(current.close)


def say(text: str) -> None:
    """Prints a message about what a command does, on the first rank alone."""
    current = _display.get()
    if current is not None:
        current.line(text)
    elif _is_first():
        print(text, file=sys.stderr, flush=True)


def show(*parts: "RenderableType") -> None:
    """Prints a result to standard output, on the first rank alone."""
    from rich.console import Console

    if not _is_first():
        return
    current = _display.get()
    if current is not None:
        current.pause()
        copy = StringIO()
        _print(Console(file=copy, width=100, color_system=None), parts)
        current.transcript.add(copy.getvalue().rstrip("\n"))
    _print(Console(), parts)


def _print(output: "Console", parts: "Sequence[RenderableType]") -> None:
    """Prints results; lines are wrapped for a terminal alone."""
    from rich.text import Text

    for part in parts:
        output.print(part, soft_wrap=isinstance(part, str | Text) and not output.is_terminal)


def keep_console(folder: Path) -> None:
    """Keeps the text of the console, from its beginning on, in a run folder."""
    current = _display.get()
    if current is not None:
        current.transcript.keep_in(folder / TRANSCRIPT)


def _is_first() -> bool:
    """Whether this is the first rank, also where no launcher has exported its number."""
    collectives = sys.modules.get("trainer.collectives")
    return is_first_rank(os.environ) and (collectives is None or collectives.rank() == 0)
