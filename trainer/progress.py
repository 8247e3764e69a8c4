"""The progress of a command: its current phase, and how much of it is done.

Library code reports progress with `phase` and does not depend on who shows it. Without a listener
nothing is shown. `trainer.runtime.console` is the listener of the command line.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, TypeVar, runtime_checkable

from trainer.stopping import stop_point

ItemType = TypeVar("ItemType")
_ITEMS_PER_ADVANCE = 500
_RECENT = 30
"""Number of the latest advances from which a rate is computed."""


class Activity:
    """The time at which this process last began, advanced or ended a phase."""

    latest = time.monotonic()

    @classmethod
    def note(cls) -> None:
        """Records that the process is working, and follows a request to stop."""
        cls.latest = time.monotonic()
        stop_point()


class Phase:
    """A part of a command that takes time: a context manager that counts its units of work.

    >>> with phase("encoding documents", total=100, unit="texts") as progress:
    ...     progress.advance(32)
    ...     progress.position
    32
    """

    def __init__(
        self, name: str, total: int | None, unit: str, kind: str, rate: tuple[int, str]
    ) -> None:
        self.name, self.total, self.unit, self.kind = name, total, unit, kind
        self.factor, self.rate_unit = rate
        self.position = 0
        self.note = ""
        """A text to show beside the numbers."""
        self.parent: Phase | None = None
        self._inner: Phase | None = None
        self._start = time.monotonic()
        self._nested_seconds = 0.0
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Counts `count` more units as done. It is a stop point (`trainer.stopping`)."""
        Activity.note()
        self.position += count if self.total is None else min(count, self.total - self.position)
        self.note = self.note if note is None else note
        self._recent.append((self.position, self.own_seconds))

    @property
    def seconds(self) -> float:
        """Seconds since the phase began."""
        return time.monotonic() - self._start

    @property
    def own_seconds(self) -> float:
        """Seconds since the phase began, without the seconds of phases inside it."""
        inner = self._inner
        return self.seconds - self._nested_seconds - (inner.seconds if inner is not None else 0.0)

    @property
    def units_per_second(self) -> float | None:
        """Rate over the latest advances; None before the first advance."""
        if not self._recent:
            return None
        first, start = self._recent[0] if len(self._recent) == _RECENT else (0, 0.0)
        last, end = self._recent[-1]
        return (last - first) / max(end - start, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end of the phase; None if there is no estimate."""
        rate = self.units_per_second
        if self.total is None or not rate:
            return None
        return (self.total - self.position) / rate

    def __enter__(self) -> "Phase":
        Activity.note()
        self.parent = _current.get()
        self._start = time.monotonic()
        if self.parent is not None:
            self.parent._inner = self
        _current.set(self)
        if listener := _listener.get():
            listener.begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        Activity.latest = time.monotonic()
        if self.parent is not None:
            self.parent._inner = None
            self.parent._nested_seconds += self.seconds
        _current.set(self.parent)
        if listener := _listener.get():
            listener.end(self)


@runtime_checkable
class Listener(Protocol):
    """An object that shows progress."""

    def begin(self, phase: Phase) -> None:
        """Called when a phase begins, inside its parent."""

    def end(self, phase: Phase) -> None:
        """Called when a phase ends."""

    def expect(self, phases: Mapping[str, int]) -> None:
        """Called with the number of phases of each kind that will follow."""


_current: ContextVar[Phase | None] = ContextVar("current phase", default=None)
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def phase(
    name: str,
    total: int | None = None,
    unit: str = "",
    kind: str | None = None,
    rate: tuple[int, str] | None = None,
) -> Iterator[Phase]:
    """Opens a phase for the block that follows.

    Inside a phase that counts the same unit, the outer phase is used: a corpus that is encoded in
    parts is one phase. Estimates assume that phases of one `kind` (default: the name) take equally
    long. `rate` shows the speed in another unit and says how many of these one unit has, for
    example `(64, "pairs")` for steps of 64 pairs.
    """
    outer = _current.get()
    if outer is not None and unit and outer.unit == unit and outer.total is not None:
        yield outer
        return
    with Phase(name, total, unit, kind or name, rate or (1, unit)) as new:
        yield new


def count_items(
    items: Iterable[ItemType], name: str, unit: str, total: int | None = None
) -> Iterator[ItemType]:
    """Yields the items in a phase of their own, which counts them.

    >>> list(count_items("abc", "spelling", "letters"))
    ['a', 'b', 'c']
    """
    with phase(name, total, unit) as progress:
        for number, item in enumerate(items, 1):
            yield item
            if number % _ITEMS_PER_ADVANCE == 0:
                progress.advance(_ITEMS_PER_ADVANCE)


def expect(phases: Mapping[str, int]) -> None:
    """Tells the listener how many phases of each kind will follow, so that it can estimate the
    end.
    """
    if listener := _listener.get():
        listener.expect(phases)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block, `listener` is told about every phase."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
