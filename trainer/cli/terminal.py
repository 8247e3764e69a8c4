"""What commands share: remarks on standard error, and the check of a place for a file."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from trainer.errors import BadFolder
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


def check_parent(path: Path, option: str) -> None:
    """Raises BadFolder if the folder of a file that an option names does not exist."""
    parent = path.absolute().parent
    if not parent.is_dir():
        raise BadFolder(f"{option} {path}: the folder {parent} does not exist; create it first")


def loading_libraries() -> AbstractContextManager[object]:
    """Returns the phase in which a command imports what takes seconds."""
    return phase("loading the libraries")
