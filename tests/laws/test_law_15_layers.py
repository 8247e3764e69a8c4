"""Law 15: imports point down the layers of pyproject.toml, siblings do not know each other, and
recipes import no torch.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """What import-linter says of the package in `folder`."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copied_package(repository: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the package and its contracts, to be spoilt."""
    shutil.copytree(
        repository / "trainer", tmp_path / "trainer", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(repository / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_import_points_down(repository: Path):
    answer = lint_imports(repository)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        (
            "batch.py",
            "from trainer.objectives import contrastive",
            "trainer.batch is not allowed to import trainer.objectives",
        ),
        (
            "data/order.py",
            "from trainer.models.parts import pooling",
            "trainer.data is not allowed to import trainer.models",
        ),
        (
            "recipe/schema.py",
            "def peek():\n    import torch",
            "trainer.recipe is not allowed to import torch",
        ),
        (
            "retrieval/bm25.py",
            "from trainer.recipe import schema",
            "trainer.retrieval is not allowed to import trainer.recipe",
        ),
        (
            "errors.py",
            "from trainer import batch",
            "trainer.errors is not allowed to import trainer.batch",
        ),
        ("stray.py", "", "stray"),
    ],
    ids=["upwards", "siblings", "torch-in-recipe", "recipe", "from-the-bottom", "no-layer"],
)
def test_planted_violation_is_caught(copied_package: Path, file: str, line: str, reason: str):
    with (copied_package / "trainer" / file).open("a", encoding="utf-8") as planted:
        planted.write(f"\n\n{line}\n")
    answer = lint_imports(copied_package)
    assert answer.returncode != 0
    assert reason in " ".join(answer.stdout.split()), answer.stdout + answer.stderr
