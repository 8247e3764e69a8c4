"""The line of progress on a terminal, and a plain one elsewhere."""

import os
import threading
import time
from collections.abc import Mapping
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO, cast

from trainer.progress import Phase
from trainer.runtime.environment import redact
from trainer.runtime.forecast import Forecast
from trainer.runtime.status_line import status_line
from trainer.storage.visible import visible

LIVE_SECONDS, PLAIN_SECONDS = 0.25, 10.0
"""How often the line is shown on a terminal, and elsewhere."""


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
        """Shows the phase around it again."""
        self._forecast.end(phase)
        self._phase = phase.parent

    def expect(self, phases: Mapping[str, int]) -> None:
        """Knows the end of the command from now on."""
        self._forecast.expect(phases)

    def line(self, text: str) -> None:
        """Prints a line, above the live one."""
        if os.getpid() != self._process:  # a forked worker: it has neither the live line nor a lock
            self._write(text)
            return
        with self._lock:
            self.transcript.add(text)
            if self._live is None:
                self._write(text)
            else:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def pause(self) -> None:
        """Takes the live line away until the next phase has begun, for others to print."""
        with self._lock:
            if self._live is not None:
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
            text = status_line(phase, seconds - self._start, self._forecast.seconds_left(phase))
            if self._is_terminal:
                self._show_live(text)
            if seconds >= self._next_plain:
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
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # closed, or on a full disk: the run goes on
            pass


class Transcript:
    """Lines that are held in memory until there is a file for them. A file that cannot be written
    to is given up in silence: the terminal has the same text.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._file: TextIO | None = None

    def keep_in(self, path: Path) -> None:
        """Writes the lines until now to a file, and those to come."""
        try:
            self._file = path.open("a", encoding="utf-8", errors="replace")
        except OSError:
            return
        lines, self._lines = self._lines, []
        for text in lines:
            self.add(text)

    def add(self, text: str) -> None:
        """Takes one or several lines."""
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
    """Standard error while a console is open: whole lines go to the display, so that warnings
    neither tear the live line nor miss the transcript.
    """

    def __init__(self, display: Display, stream: Stream) -> None:
        super().__init__()
        self._display, self._stream = display, stream
        self._rest = ""

    def write(self, text: str) -> int:
        """Prints the lines that are complete; of one that was rewritten, the last form."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._display.line(line.rstrip("\r").rpartition("\r")[2])
        return len(text)

    def finish(self) -> None:
        """Prints a line that was not ended."""
        if self._rest:
            self.write("\n")

    def fileno(self) -> int:
        """That of the stream itself."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether the stream itself is a terminal."""
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream itself."""
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
