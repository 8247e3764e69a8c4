"""Tiny pipelines run as a user runs them: `nearfar pipeline` as a process, its stages as processes
of it.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Ended = subprocess.CompletedProcess[str]

CHEAP = """
name: tiny
output: runs
values: {data: pairs.jsonl}
stages:
  look:
    command: nearfar data check ${data} --rejected ${rejected}
    outputs: {rejected: rejected.jsonl}
  recipe:
    command: nearfar recipe check a.yaml
  last:
    command: nearfar recipe check b.yaml
    reads: ["${look.rejected}"]
    after: [recipe]
"""
"""Three stages of a second or less: `last` needs the other two, and they need nothing."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with data, a recipe and a pipeline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    rows = [
        {
            "query": f"how to delete disk {number}",
            "positive": f"disk {number} is deleted with a command",
        }
        for number in range(40)
    ]
    for name in ("pairs.jsonl", "other.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name in ("a", "b"):
        Path(f"{name}.yaml").write_text(
            f"name: {name}\nmodel: {{backbone: x/y}}\ndata: {{train: pairs.jsonl}}\n",
            encoding="utf-8",
        )
    Path("p.yaml").write_text(CHEAP, encoding="utf-8")
    return tmp_path


@pytest.fixture
def nearfar() -> Callable[..., Ended]:
    """Runs the command line."""

    def run(*arguments: str) -> Ended:
        return subprocess.run(
            [sys.executable, "-m", "trainer", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def begun() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command line and leaves it running; what is still there at the end of the test is
    killed.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trainer", *arguments]
        processes.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()
