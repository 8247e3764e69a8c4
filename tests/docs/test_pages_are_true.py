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
        ("`trainer/scores.py:no_such_score`", "no no_such_score in trainer/scores.py"),
        ("`trainer/batch.py:Batch.no_such_field`", "no Batch.no_such_field in trainer/batch.py"),
        (f"as law {99} demands", f"law {99} is not in docs/laws.md"),
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


@pytest.mark.parametrize(
    ("name", "text", "stale"),
    [
        ("docs/recipe.schema.json", '"description"', "docs/recipe.schema.json"),
        ("docs/equality.md", "| ddp | 2 |", "docs/equality.md"),
        ("docs/equality.csv", "ddp,2,", "docs/equality.md"),
    ],
)
def test_a_generated_page_that_is_out_of_date_is_found(
    repository: Path, copied_pages: Path, name: str, text: str, stale: str
):
    path = copied_pages / name
    content = path.read_text(encoding="utf-8")
    assert text in content
    path.write_text(content.replace(text, text.replace("d", "e"), 1), encoding="utf-8")
    answer = check_docs(repository, copied_pages)
    assert answer.returncode == 1
    assert f"{stale}:1: out of date; run `make docs`" in answer.stdout


def test_a_page_that_no_other_leads_to_is_found(repository: Path, copied_pages: Path):
    (copied_pages / "docs" / "lonely.md").write_text("# Lonely\n", encoding="utf-8")
    answer = check_docs(repository, copied_pages)
    assert answer.returncode == 1
    assert "docs/lonely.md:1: no page that README.md leads to links to this one" in answer.stdout


class TestLaws:
    def test_a_law_without_a_test_is_found(self, repository: Path, copied_pages: Path):
        (copied_pages / "tests" / "laws" / "test_law_05_scores.py").unlink()
        answer = check_docs(repository, copied_pages)
        assert answer.returncode == 1
        assert "law 5 has no test file in tests/laws" in answer.stdout

    def test_a_test_of_no_law_is_found(self, repository: Path, copied_pages: Path):
        (copied_pages / "tests" / "laws" / "test_law_98_more.py").touch()
        answer = check_docs(repository, copied_pages)
        assert answer.returncode == 1
        assert "tests/laws/test_law_98_more.py:1: the law is not in docs/laws.md" in answer.stdout

    def test_a_test_file_that_the_page_leaves_out_is_found(
        self, repository: Path, copied_pages: Path
    ):
        (copied_pages / "tests" / "laws" / "test_law_03_more.py").touch()
        answer = check_docs(repository, copied_pages)
        assert answer.returncode == 1
        assert "the row does not link tests/laws/test_law_03_more.py" in answer.stdout

    def test_a_law_called_not_built_that_has_a_test_is_found(
        self, repository: Path, copied_pages: Path
    ):
        page = copied_pages / "docs" / "laws.md"
        rows = page.read_text(encoding="utf-8").splitlines()
        (row,) = (row for row in rows if row.startswith("| 3 |"))
        untrue = row.replace(row.split(" | ")[2], "not built yet |")
        page.write_text("\n".join(rows).replace(row, untrue), encoding="utf-8")
        answer = check_docs(repository, copied_pages)
        assert answer.returncode == 1
        assert "law 3 has the tests test_law_03_padding.py" in answer.stdout
