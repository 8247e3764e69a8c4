"""Items that another thread computes ahead of their use."""

import atexit
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
JOIN_SECONDS = 10.0
"""Time that the item in work has to be finished when no more are wanted."""


def prefetch(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """`items`, of which another thread computes up to `depth` in advance.

    An error on that thread is raised here, after the items before it.

    >>> list(prefetch(range(3), depth=2))
    [0, 1, 2]
    """
    thread = _Worker(items, depth)
    # A thread in native code while the interpreter ends would abort the process.
    atexit.register(thread.stop)
    thread.start()
    try:
        while True:
            kind, value = thread.ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        atexit.unregister(thread.stop)
        thread.stop()


class _Worker(threading.Thread):
    """Puts items, and how they ended, into a queue of limited length."""

    def __init__(self, items: Iterable[Any], depth: int) -> None:
        super().__init__(name="tokenizer", daemon=True)
        self.ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._items = items
        self._consumer_stopped = threading.Event()

    def run(self) -> None:
        try:
            for item in self._items:
                if not self._put("item", item):
                    return
            self._put("end", None)
        except BaseException as error:  # noqa: BLE001 - the consumer raises it
            self._put("error", error)

    def stop(self) -> None:
        """Ends the thread after the item in work."""
        self._consumer_stopped.set()
        self.join(JOIN_SECONDS)

    def _put(self, kind: str, value: object) -> bool:
        """Returns whether the consumer still wants items."""
        while not self._consumer_stopped.is_set():
            try:
                self.ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
