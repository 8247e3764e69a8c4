"""A thread that watches over a run: signals, the launcher, the run folder, and progress.

Python runs a signal handler only between two instructions of the main thread, which may wait for
other ranks for minutes. The thread is told about a signal at once, through a pipe.
"""

import contextlib
import faulthandler
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trainer.errors import Hang, Interrupted, OutOfMemory
from trainer.progress import Activity
from trainer.stopping import Stop, clear_request, request_stop, requested_stop
from trainer.strategies.machine.own_rank import is_first_rank

SIGNALS = {
    signal.SIGINT: Stop.CTRL_C,
    signal.SIGTERM: Stop.SIGNAL_TERM,
    signal.SIGUSR1: Stop.SIGNAL_USR1,
    signal.SIGHUP: Stop.SIGNAL_HANGUP,
}
LOOK_SECONDS = 1.0
"""Time between two looks of the thread."""
GRACE_SECONDS = 20.0
"""Time until a process that has nothing to save ends, though it has reached no stop point."""
HANG_SECONDS = 1800.0
"""Default time without any progress of any rank after which a run ends."""
_STOP_KEY, _HANG_KEY, _ACTIVITY_KEY = "nearfar/stop", "nearfar/hang", "nearfar/activity"
_FAILURE_KEY = "nearfar/failure"
FAILURE_SECONDS = 15.0
"""Time until a rank ends that has not noticed by itself that another one has failed."""


@runtime_checkable
class Store(Protocol):
    """The key-value store through which ranks find each other."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...
    def add(self, key: str, amount: int) -> int: ...


@dataclass
class Watch:
    """What the thread watches. The run adds to it as it goes on."""

    hang_seconds: float = HANG_SECONDS
    folder: Path | None = None
    """The run folder."""
    store: Store | None = None
    """The store of the ranks; None for a single process."""
    rank: int = 0
    has_nothing_to_save: bool = True
    """Whether the process may end at once if no stop point is reached."""
    before_exit: Callable[..., None] | None = None
    """Called with a message, the exit code and details before the thread ends the process."""
    _parent: int = field(default_factory=os.getppid)
    _request_time: float | None = None
    _folder_id: int | None = None
    _presses: int = 0
    _activity: tuple[int, float] = field(default_factory=lambda: (0, time.monotonic()))
    _own_activity: float = 0.0
    _has_failed: bool = False
    _failure_time: float | None = None

    def look(self, numbers: bytes) -> None:
        """Handles the signals with these numbers, and looks at everything once."""
        for number in numbers:
            self._handle(SIGNALS.get(signal.Signals(number), Stop.NO_REQUEST))
        has_launcher = "TORCHELASTIC_RUN_ID" in os.environ
        if has_launcher and os.getppid() != self._parent:
            request_stop(Stop.LAUNCHER_GONE)
        self._look_at_folder()
        self._look_at_store()
        self._look_at_request()
        self._look_at_progress()

    def watch_folder(self, folder: Path) -> None:
        """Watches a run folder, which must exist."""
        self._folder_id, self.folder = folder.stat().st_ino, folder

    def _handle(self, stop: Stop) -> None:
        if stop is Stop.CTRL_C:
            self._presses += 1
            if self._presses > 1 or self._request_time is not None:
                os.write(2, b"\x1b[0m\x1b[?25h\n" if sys.stderr.isatty() else b"\n")
                os._exit(Interrupted.exit_code)
            if is_first_rank(os.environ):
                _say("\nstopping after this step; press again to quit immediately\n")
        elif stop and self._request_time is None and is_first_rank(os.environ):
            act = "stopping" if self.has_nothing_to_save else "saving a checkpoint, then stopping"
            _say(f"\n{signal_name(stop)} received: {act}\n")
        request_stop(stop)

    def _look_at_folder(self) -> None:
        if self.folder is None:
            return
        try:
            is_gone = self.folder.stat().st_ino != self._folder_id
        except (FileNotFoundError, NotADirectoryError):
            is_gone = True
        except OSError:
            is_gone = False  # a file system that does not answer may come back
        if is_gone:
            request_stop(Stop.FOLDER_GONE)

    def _look_at_store(self) -> None:
        """Shares the request and the activity of this rank with the others."""
        if self.store is None:
            return
        try:
            if stop := requested_stop():
                self.store.set(_STOP_KEY, str(stop.value))
            elif self.store.check([_STOP_KEY]):
                request_stop(Stop(int(self.store.get(_STOP_KEY))))
            if self.store.check([_HANG_KEY]):
                self._end_hang()
            if self.store.check([_FAILURE_KEY]) and not self._has_failed:
                self._follow_failure(json.loads(self.store.get(_FAILURE_KEY)))
            is_active = Activity.latest > self._own_activity
            self._own_activity = Activity.latest
            count = self.store.add(_ACTIVITY_KEY, int(is_active))
            if count != self._activity[0]:
                self._activity = count, time.monotonic()
        except (RuntimeError, OSError):
            # The store is in the launcher or on the first rank, and has ended with it.
            self.store = None

    def _look_at_request(self) -> None:
        stop = requested_stop()
        if not stop:
            self._request_time = None
            return
        self._request_time = self._request_time or time.monotonic()
        waiting = time.monotonic() - self._request_time
        if stop is not Stop.CTRL_C and self.has_nothing_to_save and waiting > GRACE_SECONDS:
            error = stop.error()
            self._exit(f"stopped: {error}", error.exit_code)

    def _look_at_progress(self) -> None:
        latest = self._activity[1] if self.store is not None else Activity.latest
        if time.monotonic() - latest > self.hang_seconds:
            if self.store is not None:
                with contextlib.suppress(RuntimeError, OSError):
                    self.store.set(_HANG_KEY, str(self.rank))
                    time.sleep(2 * LOOK_SECONDS)  # the other ranks write their stacks too
            self._end_hang()

    def _end_hang(self) -> None:
        stacks = self.write_stacks("no progress")
        self._exit(
            f"error: rank {self.rank} has seen no progress of any rank for"
            f" {self.hang_seconds:.0f} seconds, so the run ends; its stacks are"
            f" {'above' if stacks is None else f'in {stacks}'}."
            " Continue with --resume",
            Hang.exit_code,
        )

    def tell_failure(self, error: BaseException, code: int) -> None:
        """Tells the other ranks that this one has failed. They may wait for it in a collective."""
        text = f"error: rank {self.rank} has failed: {type(error).__name__}: {error}"
        self._tell({"message": text, "code": code})

    def end_other_ranks(self, error: OutOfMemory) -> None:
        """Ends the ranks that would wait for this one, which is out of memory, before it ends."""
        details = {"details": error.details, "ends_at_once": True}
        self._tell({"message": f"error: {error}", "code": error.exit_code, **details})
        if self.store is not None:
            time.sleep(2 * LOOK_SECONDS)

    def _tell(self, failure: dict[str, Any]) -> None:
        """Shares the first failure of this rank with the others."""
        if self.store is not None and not self._has_failed:
            with contextlib.suppress(RuntimeError, OSError):
                self.store.set(_FAILURE_KEY, json.dumps(failure))
        self._has_failed = True

    def _follow_failure(self, failure: dict[str, Any]) -> None:
        """Ends the process after another rank has failed: at once, or if it has not noticed the
        lost connection by itself after some time.
        """
        self._failure_time = self._failure_time or time.monotonic()
        if failure.get("ends_at_once"):
            self._exit(failure["message"], failure["code"], **failure["details"])
        if time.monotonic() - self._failure_time > FAILURE_SECONDS:
            self.write_stacks(failure["message"])
            self._exit(failure["message"], failure["code"])

    def write_stacks(self, reason: str) -> Path | None:
        """Writes the stacks of all threads of this rank into the run folder, and returns the
        file. Without a folder, they go to standard error.
        """
        with contextlib.suppress(OSError):
            if self.folder is not None:
                path = self.folder / "stacks" / f"rank-{self.rank}.txt"
                path.parent.mkdir(exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {reason}\n")
                    file.flush()
                    faulthandler.dump_traceback(file, all_threads=True)
                return path
            faulthandler.dump_traceback(all_threads=True)
        return None

    def _exit(self, message: str, code: int, **details: Any) -> None:
        if is_first_rank(os.environ) or code == Hang.exit_code:  # only stacks differ between ranks
            _say(f"{message}\n")
        with contextlib.suppress(Exception):
            if self.before_exit is not None:
                self.before_exit(message, code, **details)
        os._exit(code)


class _Current:
    watch: Watch | None = None


def current_watch() -> Watch | None:
    """Returns the watch of this process, or None outside `watching`."""
    return _Current.watch


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Within the block, signals become requests to stop, and a thread watches over the run.

    Outside the main thread, where Python does not allow signal handlers, nothing is watched. An
    outer block stays in charge. The former handlers are restored at the end.
    """
    if _Current.watch is not None or threading.current_thread() is not threading.main_thread():
        yield _Current.watch or Watch()
        return
    watch = Watch()
    Activity.latest = time.monotonic()
    clear_request()
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    former_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A signal that is ignored stays so: nohup ignores SIGHUP.
    signals = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, _ignore) for number in signals}
    thread = threading.Thread(target=_run, args=(watch, reader), name="watch", daemon=True)
    thread.start()
    _Current.watch = watch
    try:
        yield watch
    finally:
        _Current.watch = None
        # None: the former handler was not installed from Python, so only the default can be used.
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(former_fd)
        os.write(writer, b"\0")  # the thread ends
        thread.join()
        os.close(reader)
        os.close(writer)
        clear_request()


def signal_name(stop: Stop) -> str:
    """Returns the name of the signal that led to a request.

    >>> signal_name(Stop.SIGNAL_TERM)
    'SIGTERM'
    """
    return next(number.name for number, reason in SIGNALS.items() if reason is stop)


def _run(watch: Watch, reader: int) -> None:
    """Looks until the number 0 is read. Signals that come with it are recorded, not followed."""
    while True:
        readable, _, _ = select.select([reader], [], [], LOOK_SECONDS)
        numbers = os.read(reader, 64) if readable else b""
        if b"\0" in numbers:
            break
        watch.look(numbers)
    for number in numbers.replace(b"\0", b""):
        request_stop(SIGNALS.get(signal.Signals(number), Stop.NO_REQUEST))


def _ignore(number: int, frame: Any) -> None:
    """The handler in Python: the thread reads the number from the pipe."""


def _say(text: str) -> None:
    """Writes to standard error without its buffer, which the main thread may be writing to."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
