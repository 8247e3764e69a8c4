"""Where a run speaks: lines about its progress go to standard error, its result to standard
output.
"""

import sys

from rich.console import Console, RenderableType

from trainer.collectives import rank


def say(text: str) -> None:
    """Prints one line about what a run does, on the first rank alone."""
    if rank() == 0:
        print(text, file=sys.stderr, flush=True)


def show(*parts: RenderableType) -> None:
    """Prints a result, on the first rank alone."""
    if rank() == 0:
        console = Console()
        for part in parts:
            console.print(part)
