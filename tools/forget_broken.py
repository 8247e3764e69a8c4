"""Forgets every package whose installation was cut short, so that pip installs it again instead of
calling it satisfied.

pip writes a package file by file: after a power cut or a kill, its metadata can be there and its
modules not.
"""

import shutil
import sysconfig
from importlib.metadata import PathDistribution
from pathlib import Path


def main() -> None:
    """Removes the metadata of packages with missing or truncated files, and what an interrupted
    uninstall left.
    """
    folder = Path(sysconfig.get_path("purelib"))
    for metadata in sorted(folder.glob("*.dist-info")):
        if not is_whole(metadata):
            print(
                "  installing again, it was interrupted:"
                f" {metadata.name.removesuffix('.dist-info')}"
            )
            shutil.rmtree(metadata)
    for leftover in folder.glob("~*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def is_whole(metadata: Path) -> bool:
    """True when everything the package's own list names is there, in the size the list gives."""
    files = PathDistribution(metadata).files
    if not files:
        return False
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix != ".pyc" and (
            not path.is_file() or (file.size is not None and file.size != path.stat().st_size)
        ):
            return False
    return True


if __name__ == "__main__":
    main()
