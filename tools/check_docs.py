"""Checks that the pages are true: links, functions, commands and files exist, every page can be
reached, every law has its tests, and what is generated from the code is current.

`--write` first writes the generated pages anew. Prints one line per finding, `page:line: what`, and
exits with 1 if there is one.
"""

import argparse
import sys
from pathlib import Path

from pages import generated, laws, links


def main() -> None:
    """Checks every page under the root; exit code 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the generated pages anew")
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    options = parser.parse_args()
    if options.write:
        generated.write(options.root)
    findings = check(options.root)
    print("\n".join(findings) or "docs: links, names, commands, laws and generated pages are right")
    sys.exit(bool(findings))


def check(root: Path) -> list[str]:
    """What is wrong with the pages under the root."""
    return [*links.check(root), *laws.check(root), *generated.check(root)]


if __name__ == "__main__":
    main()
