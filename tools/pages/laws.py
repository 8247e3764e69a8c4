"""docs/laws.md against the tests: every law has its test file, and every law that is cited exists.

A law without a test must say "not built yet" in its row, and must have no test file.
"""

import re
from collections.abc import Iterator
from pathlib import Path

PAGE = "docs/laws.md"
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$")
TEST_FILE = re.compile(r"test_law_(\d+)_\w+\.py")
CITATION = re.compile(r"\blaws?[ _]0?(\d+)", re.IGNORECASE)
NOT_BUILT = "not built yet"
CITING = ("trainer/**/*.py", "tests/**/*.py", "tools/**/*.py", "benchmarks/**/*.py")
CITING_PAGES = ("*.md", "docs/**/*.md", "launch/**/*", "recipes/**/*.yaml", "Makefile")


def check(root: Path) -> Iterator[str]:
    """What is wrong with the table of laws or with a citation."""
    rows = {
        int(match[1]): (number, match[3])
        for number, line in enumerate((root / PAGE).read_text(encoding="utf-8").splitlines(), 1)
        if (match := ROW.match(line))
    }
    files = [path.name for path in sorted((root / "tests" / "laws").glob("test_law_*.py"))]
    of_law = {
        law: [file for file in files if int(TEST_FILE.fullmatch(file)[1]) == law] for law in rows
    }
    for law, (number, tests) in rows.items():
        if not of_law[law] and NOT_BUILT not in tests:
            yield f"{PAGE}:{number}: law {law} has no test file in tests/laws"
        if of_law[law] and NOT_BUILT in tests:
            yield f"{PAGE}:{number}: law {law} has the tests {', '.join(of_law[law])}"
        for file in of_law[law]:
            if NOT_BUILT not in tests and f"tests/laws/{file}" not in tests:
                yield f"{PAGE}:{number}: the row does not link tests/laws/{file}"
    for file in files:
        if int(TEST_FILE.fullmatch(file)[1]) not in rows:
            yield f"tests/laws/{file}:1: the law is not in {PAGE}"
    yield from check_citations(root, set(rows))


def check_citations(root: Path, laws: set[int]) -> Iterator[str]:
    """Citations such as "law 2" of a law that the page does not have."""
    files = {path for pattern in (*CITING, *CITING_PAGES) for path in root.glob(pattern)}
    for path in sorted(path for path in files if path.is_file()):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for cited in CITATION.findall(line):
                if int(cited) not in laws:
                    yield f"{path.relative_to(root)}:{number}: law {cited} is not in {PAGE}"
