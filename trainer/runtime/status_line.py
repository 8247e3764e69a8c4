"""The progress line: the current phase, how much of it is done, and how long it will take."""

import sys
from pathlib import Path

from trainer.progress import Phase

_PAGES = Path("/proc/self/statm")
_PAGE_BYTES = 4096


def status_line(phase: Phase, seconds_elapsed: float, seconds_left: float | None) -> str:
    """Returns the line for the current phase of a command.

    The command began `seconds_elapsed` ago and will end in `seconds_left` (None: no estimate). The
    line begins with the most important parts, since a terminal cuts off its end:
    `1:02, 4:05 left  training: 120 of 240 steps  154 pairs/s  loss 0.312  1.2 GB`.
    """
    left_in_phase = phase.seconds_left
    clocks = clock(seconds_elapsed)
    if seconds_left is not None:
        clocks += f", {clock(seconds_left)} left"
    elif left_in_phase is not None:
        clocks += f", {clock(left_in_phase)} left in this phase"
    return "  ".join(filter(None, (clocks, _position(phase), _rate(phase), phase.note, _memory())))


def clock(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds.

    >>> clock(83.0), clock(3723.0), clock(0.0)
    ('1:23', '1:02:03', '0:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _position(phase: Phase) -> str:
    """Returns the names of the phase and its outer phase, and how much of the phase is done."""
    names = phase.name if phase.parent is None else f"{phase.parent.name}, {phase.name}"
    if phase.total is not None:
        return f"{names}: {phase.position:,} of {phase.total:,} {phase.unit}"
    return f"{names}: {phase.position:,} {phase.unit}" if phase.position else names


def _rate(phase: Phase) -> str:
    rate = (phase.units_per_second or 0.0) * phase.factor
    if not rate:
        return ""
    return f"{rate:,.0f} {phase.rate_unit}/s" if rate >= 10 else f"{rate:.1f} {phase.rate_unit}/s"


def _memory() -> str:
    """Returns the memory of this process, and the GPU memory if it uses a GPU."""
    try:
        resident = int(_PAGES.read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):  # not Linux
        return ""
    torch = sys.modules.get("torch")
    on_gpu = ""
    if torch is not None and getattr(torch, "cuda", None) and torch.cuda.is_initialized():
        on_gpu = f", GPU {torch.cuda.memory_reserved() / 1e9:.1f} GB"
    return f"{resident / 1e9:.1f} GB{on_gpu}"
