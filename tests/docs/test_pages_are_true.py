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


@pytest.fixture(autouse=True)
def tools(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "tools")


def findings(root: Path) -> list[str]:
    """The findings without a process of their own, which takes a second to start."""
    from check_docs import check

    return check(root)


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
    for page in (
        *repository.glob("*.md"),
        *(repository / name for name in ("LICENSE", "Makefile", "pyproject.toml")),
    ):
        shutil.copy(page, tmp_path)
    return tmp_path


def test_pages_are_true(repository: Path):
    answer = check_docs(repository, repository)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_untrue_page_ends_the_command_with_1(repository: Path, copied_pages: Path):
    page = copied_pages / "docs" / "log.md"
    text = page.read_text(encoding="utf-8")
    page.write_text("`trainer.nothing`\n" + text, encoding="utf-8")
    answer = check_docs(repository, copied_pages)
    assert answer.returncode == 1
    assert answer.stdout == "docs/log.md:1: no trainer.nothing in the code\n"


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
def test_planted_untruth_is_found(copied_pages: Path, line: str, finding: str):
    page = copied_pages / "CONTRIBUTING.md"
    number = len(page.read_text(encoding="utf-8").splitlines()) + 1
    with page.open("a", encoding="utf-8") as planted:
        planted.write(line + "\n")
    answers = findings(copied_pages)
    assert all(answer.startswith(f"CONTRIBUTING.md:{number}: ") for answer in answers)
    assert any(finding in answer for answer in answers)


@pytest.mark.parametrize(
    ("name", "text", "stale"),
    [
        ("docs/recipe.schema.json", '"description"', "docs/recipe.schema.json"),
        ("docs/equality.md", "| ddp | 2 |", "docs/equality.md"),
        ("docs/equality.csv", "ddp,2,", "docs/equality.md"),
        ("docs/reference/recipe.md", "optimization", "docs/reference/recipe.md"),
        ("docs/reference/commands.md", "nearfar fit", "docs/reference/commands.md"),
        ("docs/reference/exit-codes.md", "| 86 |", "docs/reference/exit-codes.md"),
        ("docs/style.md", "preflight\n", "docs/style.md"),
        ("pyproject.toml", "models | ", "docs/style.md"),
    ],
)
def test_outdated_generated_page_is_found(copied_pages: Path, name: str, text: str, stale: str):
    path = copied_pages / name
    content = path.read_text(encoding="utf-8")
    assert text in content
    path.write_text(content.replace(text, f"x{text}", 1), encoding="utf-8")
    assert findings(copied_pages) == [f"{stale}:1: out of date; run `make docs`"]


def test_page_without_a_link_to_it_is_found(copied_pages: Path):
    (copied_pages / "docs" / "lonely.md").write_text("# Lonely\n", encoding="utf-8")
    assert findings(copied_pages) == [
        "docs/lonely.md:1: no page that README.md leads to links to this one"
    ]


class TestLaws:
    def test_law_without_a_test_is_found(self, copied_pages: Path):
        (copied_pages / "tests" / "laws" / "test_law_05_scores.py").unlink()
        assert any(
            "law 5 has no test file in tests/laws" in each for each in findings(copied_pages)
        )

    def test_test_of_no_law_is_found(self, copied_pages: Path):
        (copied_pages / "tests" / "laws" / "test_law_98_more.py").touch()
        assert any(
            "tests/laws/test_law_98_more.py:1: the law is not in docs/laws.md" in each
            for each in findings(copied_pages)
        )

    def test_test_file_missing_on_the_page_is_found(self, copied_pages: Path):
        (copied_pages / "tests" / "laws" / "test_law_03_more.py").touch()
        assert any(
            "the row does not link tests/laws/test_law_03_more.py" in each
            for each in findings(copied_pages)
        )

    def test_law_called_not_built_with_a_test_is_found(self, copied_pages: Path):
        page = copied_pages / "docs" / "laws.md"
        rows = page.read_text(encoding="utf-8").splitlines()
        (row,) = (row for row in rows if row.startswith("| 3 |"))
        untrue = row.replace(row.split(" | ")[2], "not built yet |")
        page.write_text("\n".join(rows).replace(row, untrue), encoding="utf-8")
        assert any(
            "law 3 has the tests test_law_03_padding.py" in each for each in findings(copied_pages)
        )
