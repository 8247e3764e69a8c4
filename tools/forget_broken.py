"""Forgets every package whose installation was interrupted, so that pip installs it again instead
of calling it satisfied.

pip writes a package file by file. After a power cut or a kill, its metadata can exist without its
modules.
"""

import shutil
import sysconfig
from importlib.metadata import PathDistribution
from pathlib import Path


def main() -> None:
    """Removes the metadata of packages with missing or truncated files, and the leftovers of an
    interrupted uninstall.
    """
    folder = Path(sysconfig.get_path("purelib"))
    for metadata in sorted(folder.glob("*.dist-info")):
        if not is_complete(metadata):
            print(
                "  installing again, it was interrupted:"
                f" {metadata.name.removesuffix('.dist-info')}"
            )
            shutil.rmtree(metadata)
    for leftover in folder.glob("~*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def is_complete(metadata: Path) -> bool:
    """True if every file in the package's own list exists and has the size in the list."""
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
