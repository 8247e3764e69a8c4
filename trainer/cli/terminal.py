"""Prints the remarks of a command on standard error."""

import sys
from contextlib import AbstractContextManager

from trainer.progress import phase


class StartAgain(Exception):
    """Raised to start the command again in this process, with other words."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(*words)
        self.words = words


def tell(line: str) -> None:
    """Prints a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def tell_left_out(counts: dict[str, int]) -> None:
    """Prints the numbers of documents of a corpus that were left out."""
    for name, count in counts.items():
        tell(f"left out: {count:,} {name}")


def loading_libraries() -> AbstractContextManager[object]:
    """Returns the phase in which a command imports what takes seconds."""
    return phase("loading the libraries")
