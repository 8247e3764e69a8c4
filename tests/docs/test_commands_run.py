"""The commands of the README and of the tutorial, word for word, in a folder that holds what they
speak of.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WORDS = ("disk", "database", "machine", "account", "query", "storage", "region", "second")


def blocks(page: Path, language: str) -> list[str]:
    """The contents of a page's code blocks in a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of a page's `bash` blocks, without `make`, which is what runs these tests."""
    return [
        line.partition("  #")[0]
        for block in blocks(page, "bash")
        for line in block.splitlines()
        if not line.startswith("make ")
    ]


@pytest.fixture
def folder(repository: Path, toy_folder, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    """A checkout in small: recipes, the command, the user's files, and a tiny model under the names
    that the pages use.
    """
    folder = tmp_path_factory.mktemp("user")
    for name in ("recipes", "launch"):
        shutil.copytree(repository / name, folder / name)
    for name in ("BAAI/bge-base-en-v1.5", "sentence-transformers/all-MiniLM-L6-v2"):
        shutil.copytree(toy_folder("bert"), folder / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "nearfar").symlink_to(Path(sys.executable).with_name("nearfar"))
    pairs = [
        (f"{first} {second} {number}", f"show the {second} of the {first}, {number}")
        for number, (first, second) in enumerate(
            (first, second) for first in WORDS for second in WORDS for _ in range(2)
        )
    ]
    documents = [
        {"_id": str(number), "title": "", "text": positive}
        for number, (_, positive) in enumerate(pairs)
    ]
    queries = [{"_id": f"q{number}", "text": query} for number, (query, _) in enumerate(pairs)]
    (folder / "my_beir_folder" / "qrels").mkdir(parents=True)
    _write(
        folder / "my.jsonl", [{"query": query, "positive": positive} for query, positive in pairs]
    )
    for name in ("corpus.jsonl", "docs.jsonl"):
        _write(folder / name, documents)
    _write(folder / "my_beir_folder" / "corpus.jsonl", documents)
    _write(folder / "my_beir_folder" / "queries.jsonl", queries[:20])
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{number}\t{number}\t1" for number in range(20))]
    (folder / "my_beir_folder" / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n")
    (folder / "texts.txt").write_text("delete a disk\nlist the accounts\n")
    return folder


def _write(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def run_all(page: Path, folder: Path) -> None:
    path = f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    lines = commands(page)
    assert len(lines) >= 2
    for command in lines:
        ended = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_commands_of_the_readme_run(repository: Path, folder: Path) -> None:
    run_all(repository / "README.md", folder)


@pytest.mark.slow
def test_python_of_the_readme_runs(repository: Path, folder: Path) -> None:
    (block,) = blocks(repository / "README.md", "python")
    command = [sys.executable, "-c", block]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "show the" in ended.stdout, "the search prints documents"


@pytest.mark.slow
def test_commands_of_the_tutorial_run_and_leave_their_files(repository: Path, folder: Path) -> None:
    run_all(repository / "docs" / "tutorial-own-data.md", folder)
    written = {path.name for path in (folder / "runs" / "mine").iterdir()}
    assert {"model", "report.html", "recipe.yaml", "log.jsonl", "environment.json"} <= written
    assert (folder / "vectors.npy").stat().st_size > 2 * 32 * 4
    assert (folder / "idx").is_dir()
