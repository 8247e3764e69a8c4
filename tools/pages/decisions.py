"""The list of decisions in docs/README.md, from the titles of the pages in docs/decisions."""

from pathlib import Path


def decisions_list(root: Path) -> str:
    """One line per decision, with its title."""
    return "".join(
        f"- [{page.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}]"
        f"(decisions/{page.name})\n"
        for page in sorted((root / "docs" / "decisions").glob("*.md"))
    )
