"""How much memory a block of a test takes at its peak, libraries below Python included."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Peak:
    """The growth of the process's memory, from the start of the block to the peak within it."""

    bytes: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """A block whose peak is known at its end. Skips the test where Linux does not tell it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is used now
    except OSError:
        pytest.skip("the peak of memory cannot be reset here")
    before, peak = _status("VmRSS"), Peak()
    yield peak
    peak.bytes = _status("VmHWM") - before


def _status(name: str) -> int:
    line = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert line is not None
    return int(line[1]) * 1024
