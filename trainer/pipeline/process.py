"""Runs another command of nearfar as a process, to which signals are forwarded.

The output of a stage is written to a log and shown.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, BinaryIO

from trainer.errors import Interrupted, Preempted
from trainer.storage.locks import FolderLock

_POLL_SECONDS = 0.1


class Relay:
    """Forwards SIGINT, SIGTERM, SIGUSR1 and SIGHUP to the running process, so that it can end
    properly, and stores the first signal.

    The process has its own process group. Otherwise Ctrl-C at the terminal would reach it twice,
    and a second Ctrl-C means that it ends at once.
    """

    def __init__(self) -> None:
        self.first_signal: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._former_handlers: dict[int, object] = {}

    def __enter__(self) -> "Relay":
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
            numbers.append(signal.SIGHUP)
        self._former_handlers = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._former_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    def watch(self, process: "subprocess.Popen[bytes] | None") -> None:
        """Sets the process that gets the signals, and sends it a signal that came before."""
        self._process = process
        if process is not None and self.first_signal is not None:
            process.send_signal(self.first_signal)

    def check(self, place: str, advice: str) -> None:
        """Raises Interrupted after Ctrl-C, and Preempted after another signal."""
        if self.first_signal == signal.SIGINT:
            raise Interrupted(f"{place}, by Ctrl-C; {advice}")
        if self.first_signal is not None:
            raise Preempted(f"{place} by signal {self.first_signal}; {advice}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.first_signal = self.first_signal or number
        if self._process is not None:
            self._process.send_signal(number)


def run(
    words: Sequence[str],
    log: Path,
    relay: Relay,
    lock: FolderLock,
    on_start: Callable[[int], None],
    show: BinaryIO,
) -> int:
    """Runs `nearfar <words>` and returns its exit code, or 128 + the signal that ended it.

    The output is appended to `log` and copied to `show`. The process inherits the `lock`, so the
    folder stays locked while it runs even if the pipeline is killed. `on_start` is called with the
    process id.
    """
    with log.open("ab") as output, log.open("rb") as log_reader:
        log_reader.seek(0, os.SEEK_END)
        # The process writes to the log and not to our terminal. So the log is complete and the
        # stage continues if the pipeline is killed.
        process = _start(
            words, stdout=output, stderr=subprocess.STDOUT, pass_fds=(lock.descriptor,)
        )
        relay.watch(process)
        try:
            on_start(process.pid)
            while _is_running(process):
                shutil.copyfileobj(log_reader, show)
                show.flush()
            shutil.copyfileobj(log_reader, show)
            show.flush()
        finally:
            relay.watch(None)
            if process.poll() is None:  # the reader of our output has ended, or we have an error
                process.send_signal(signal.SIGINT)
                process.wait()
    return _exit_code(process)


def run_on_terminal(words: Sequence[str], relay: Relay, stdout: int | None = None) -> int:
    """Runs `nearfar <words>`, which prints where we do, and returns its exit code as `run` does.

    With `stdout=subprocess.DEVNULL`, its result is not printed.
    """
    process = _start(words, stdout=stdout)
    relay.watch(process)
    process.wait()
    relay.watch(None)
    return _exit_code(process)


def last_lines(log: Path, count: int = 5) -> list[str]:
    """Returns the last `count` lines of a log that are not blank."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.strip()][-count:]


def _start(words: Sequence[str], **streams: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "trainer", *words],
        stdin=subprocess.DEVNULL,
        process_group=0,
        env=_environment(),
        **streams,
    )


def _exit_code(process: "subprocess.Popen[bytes]") -> int:
    code = process.returncode
    return code if code >= 0 else 128 - code


def _is_running(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _environment() -> dict[str, str]:
    """Returns the environment of the process: ours, with output that is not buffered.

    This package comes first in its search path, since the current folder may have another
    `trainer`.
    """
    package_parent = str(Path(__file__).parents[2])
    search_path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{package_parent}{os.pathsep}{search_path}"
        if search_path
        else package_parent,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": os.environ.get("COLUMNS") or str(shutil.get_terminal_size((100, 24)).columns),
    }
