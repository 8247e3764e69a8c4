"""One stage as a process of its own: its output goes to a file and from there to us, signals are
passed on to it.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO

from trainer.storage.locks import FolderLock

_POLL_SECONDS = 0.1


class Relay:
    """Passes SIGINT, SIGTERM and SIGHUP on to the stage that runs, so that it ends in its own way,
    and remembers the first.

    The stage is in a process group of its own: a Ctrl-C at the terminal would otherwise reach it
    twice, which means at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Relay":
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    def watch(self, process: "subprocess.Popen[bytes] | None") -> None:
        """Names the process that runs now; one started while a signal came gets it too."""
        self._process = process
        if process is not None and self.received is not None:
            process.send_signal(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if self._process is not None:
            self._process.send_signal(number)


def run(
    words: Sequence[str],
    log: Path,
    relay: Relay,
    lock: FolderLock,
    started: Callable[[int], None],
    show: BinaryIO,
) -> int:
    """Runs `nearfar <words>`, its output in `log` and copied to `show`; returns its exit code, 128
    + the signal that ended it.

    It inherits the `lock`: should we be killed, the folder stays locked as long as it runs.
    `started` is told its process id.
    """
    with log.open("wb") as output, log.open("rb") as copied:
        # The pipe of a terminal is not handed on: the log is whole, and the stage lives on,
        # whatever becomes of us.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "trainer", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lock.descriptor,),
            process_group=0,
            env=_environment(),
        )
        relay.watch(process)
        try:
            started(process.pid)
            while _is_running(process):
                shutil.copyfileobj(copied, show)
                show.flush()
            shutil.copyfileobj(copied, show)
            show.flush()
        finally:
            relay.watch(None)
            if process.poll() is None:  # our own reader has gone, or an error of ours
                process.send_signal(signal.SIGINT)
                process.wait()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def last_lines(log: Path, count: int = 5) -> list[str]:
    """The last lines of a log that are not blank."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.strip()][-count:]


def _is_running(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _environment() -> dict[str, str]:
    """Ours, with this very package to be found (the current folder may hold another `trainer`), and
    lines as they are written.
    """
    here = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{here}{os.pathsep}{before}" if before else here,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": os.environ.get("COLUMNS") or str(shutil.get_terminal_size((100, 24)).columns),
    }
