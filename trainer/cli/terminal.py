"""Prints lines on standard error: the progress and the remarks of a command."""

import sys
import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 5


def tell(line: str) -> None:
    """Prints a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def progress_of_phases() -> Callable[[str, int, int], None]:
    """Returns a function that prints, every few seconds, how much of a phase is done."""
    last_line = -float(SECONDS_BETWEEN_LINES)

    def show(phase: str, count: int, total: int) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            tell(f"{count:,} of {total:,} {phase}")

    return show


def progress_of(phase: str) -> Callable[[int, int], None]:
    """Like `progress_of_phases`, for a single phase such as `documents encoded`."""
    show = progress_of_phases()
    return lambda count, total: show(phase, count, total)


def tell_left_out(counts: dict[str, int]) -> None:
    """Prints the numbers of documents of a corpus that were left out."""
    for name, count in counts.items():
        tell(f"left out: {count:,} {name}")
