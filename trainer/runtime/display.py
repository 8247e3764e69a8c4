"""Shows progress: a live line on a terminal, and plain lines elsewhere."""

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO, cast

from trainer.progress import Phase
from trainer.runtime.forecast import Forecast
from trainer.runtime.status_line import status_line
from trainer.storage.redaction import redact
from trainer.storage.visible import visible

LIVE_SECONDS, PLAIN_SECONDS = 0.25, 10.0
"""Seconds between two updates of the live line, and between two plain lines."""
SHORT_PHASE_SECONDS = 1.0
"""A phase that is shorter has no plain line, so that a quick command prints none."""


Stream = TextIO | TextIOBase


class Display:
    """Shows the phases of one command and prints its messages. `close` ends it."""

    def __init__(self, stream: Stream) -> None:
        self.transcript = Transcript()
        self._stream = stream
        self._is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._forecast = Forecast()
        self._start = time.monotonic()
        self._next_plain = 0.0
        self._phase: Phase | None = None
        self._live: Any = None
        self._lock = threading.RLock()
        self._end_event = threading.Event()
        self._process = os.getpid()
        self._ticker: threading.Thread | None = None

    def begin(self, phase: Phase) -> None:
        """Shows a phase, the first one at once."""
        self._phase = phase
        if self._ticker is None:
            self._tick()
            self._ticker = threading.Thread(target=self._run, name="display", daemon=True)
            self._ticker.start()

    def end(self, phase: Phase) -> None:
        """Shows the outer phase again."""
        self._forecast.end(phase)
        self._phase = phase.parent

    def expect(self, phases: Mapping[str, int]) -> None:
        """Enables the estimate of the command's end."""
        self._forecast.expect(phases)

    def line(self, text: str) -> None:
        """Prints a line above the live line, without secrets."""
        text = redact(text)
        if os.getpid() != self._process:  # a forked worker has neither the live line nor the lock
            self._write(text)
            return
        with self._lock:
            self.transcript.add(text)
            if self._live is not None:
                with suppress(OSError):  # the terminal is closed: the run continues
                    self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                self._write(text)

    def pause(self) -> None:
        """Removes the live line until the next phase begins, so that others can print."""
        with self._lock:
            if self._live is not None:
                with suppress(OSError):
                    self._live.stop()
                self._live = None

    def close(self) -> None:
        """Ends the live line and the transcript."""
        self._end_event.set()
        if self._ticker is not None:
            self._ticker.join()
        self.pause()
        self.transcript.close()

    def _run(self) -> None:
        while not self._end_event.wait(LIVE_SECONDS):
            self._tick()

    def _tick(self) -> None:
        with self._lock:
            phase, seconds = self._phase, time.monotonic()
            if phase is None:
                self.pause()
                return
            seconds_left = self._forecast.seconds_left(phase)
            text = redact(status_line(phase, seconds - self._start, seconds_left))
            if self._is_terminal:
                with suppress(OSError):
                    self._show_live(text)
            if seconds >= self._next_plain and phase.seconds >= SHORT_PHASE_SECONDS:
                self._next_plain = seconds + PLAIN_SECONDS
                self.transcript.add(text)
                if not self._is_terminal:
                    self._write(text)

    def _show_live(self, text: str) -> None:
        from rich.text import Text

        line = Text(text, no_wrap=True, overflow="ellipsis")
        if self._live is None:
            self._live = _live_line(self._stream)
            self._live.start()
        self._live.update(line, refresh=True)

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # closed, or on a full disk: the run continues
            self._stream.write(text + "\n")
            self._stream.flush()


class Transcript:
    """Lines that are stored in memory until there is a file for them.

    A file that cannot be written to is no longer used, without a warning, because the terminal
    shows the same text.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._file: TextIO | None = None

    @property
    def is_in_file(self) -> bool:
        """True if the lines are in a file."""
        return self._file is not None

    def keep_in(self, path: Path) -> None:
        """Writes all former and further lines to a file."""
        try:
            self._file = path.open("a", encoding="utf-8", errors="replace")
        except OSError:
            return
        lines, self._lines = self._lines, []
        for text in lines:
            self.add(text)

    def add(self, text: str) -> None:
        """Adds one or several lines."""
        if self._file is None:
            self._lines.append(text)
            return
        try:
            self._file.write("".join(f"{visible(line)}\n" for line in redact(text).split("\n")))
            self._file.flush()
        except (OSError, ValueError):
            self._file = None

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class LineWriter(TextIOBase):
    """Replaces standard error while a console is open.

    Complete lines go to the display, so that warnings do not break the live line and are in the
    transcript.
    """

    def __init__(self, display: Display, stream: Stream) -> None:
        super().__init__()
        self._display, self._stream = display, stream
        self._rest = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Prints complete lines. Only the last version of a line that was rewritten is printed."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._display.line(line.rstrip("\r").rpartition("\r")[2])
        return len(text)

    def finish(self) -> None:
        """Prints a line that has no end."""
        if self._rest:
            self.write("\n")

    def fileno(self) -> int:
        """The file descriptor of the stream."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Returns True if the stream is a terminal."""
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return self._stream.encoding


def _live_line(stream: Stream) -> Any:
    from rich.console import Console
    from rich.live import Live

    return Live(
        console=Console(file=cast(TextIO, stream)),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
