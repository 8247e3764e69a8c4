"""Wall clock, processor time, and how long the threads of this process stood waiting for a core."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Clock:
    """A point in time as seen by this process; differences are what counts. Seconds."""

    wall: float
    processor: float
    waited: float
    """Sum over threads of the time they could have run and did not, because the cores were busy
    with something else.
    """

    @classmethod
    def now(cls) -> Self:
        return cls(time.monotonic(), time.process_time(), _waited())

    def since(self, start: "Clock") -> "Clock":
        return Clock(
            self.wall - start.wall, self.processor - start.processor, self.waited - start.waited
        )

    @property
    def wait_ratio(self) -> float:
        """The share of the time in which this process, always busy, was kept from running: 0 on a
        quiet machine.

        Threads that waited for a core show in `waited`; a process that was stopped shows in wall
        time that is neither.
        """
        waiting = self.waited / max(self.waited + self.processor, 1e-9)
        return max(waiting, 1.0 - (self.waited + self.processor) / max(self.wall, 1e-9))


def _waited() -> float:
    """Linux alone; 0 elsewhere. Threads that ended are not in it."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return 0.0
    total = 0
    for task in tasks.iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total / 1e9


def peak_memory_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak_memory() -> float:
    """Lets the peak begin anew at what is used now, and returns that in megabytes. Linux alone:
    elsewhere the old peak stays.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_memory_megabytes()
    return memory_megabytes()


def memory_megabytes() -> float:
    """What is held now. Linux alone."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
