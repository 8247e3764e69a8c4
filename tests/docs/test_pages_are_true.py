"""Pages name links, functions, commands and files that exist; `tools/check_docs.py` finds the ones
that do not.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def check_docs(repository: Path, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "tools" / "check_docs.py"), "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copied_pages(repository: Path, tmp_path: Path) -> Path:
    """A copy of what the pages speak of, to be spoilt."""
    for folder in (
        "trainer",
        "docs",
        "tests",
        "tools",
        "recipes",
        "launch",
        "benchmarks",
        "requirements",
    ):
        if (repository / folder).is_dir():
            shutil.copytree(
                repository / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
            )
    for page in (*repository.glob("*.md"), repository / "Makefile"):
        shutil.copy(page, tmp_path)
    return tmp_path


def test_every_page_is_true(repository: Path):
    answer = check_docs(repository, repository)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("[here](docs/nowhere.md)", "the link docs/nowhere.md leads nowhere"),
        ("[here](docs/style.md#no-such-heading)", "leads nowhere"),
        ("`trainer.losses.no_such_loss`", "no trainer.losses.no_such_loss in the code"),
        ("`make coffee`", "no target `make coffee`"),
        ("nearfar levitate --now", "no command `nearfar levitate`"),
        ("`recipes/no-such.yaml`", "no file recipes/no-such.yaml"),
    ],
)
def test_a_planted_untruth_is_found(repository: Path, copied_pages: Path, line: str, finding: str):
    page = copied_pages / "CONTRIBUTING.md"
    number = len(page.read_text(encoding="utf-8").splitlines()) + 1
    with page.open("a", encoding="utf-8") as planted:
        planted.write(line + "\n")
    answer = check_docs(repository, copied_pages)
    assert answer.returncode == 1
    assert f"CONTRIBUTING.md:{number}: " in answer.stdout
    assert finding in answer.stdout


def test_an_old_schema_is_found(repository: Path, copied_pages: Path):
    (copied_pages / "docs" / "recipe.schema.json").write_text("{}\n", encoding="utf-8")
    answer = check_docs(repository, copied_pages)
    assert answer.returncode == 1
    assert "docs/recipe.schema.json:1: not what the code says" in answer.stdout
