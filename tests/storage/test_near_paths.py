"""A mistyped path is answered with a similar one that exists."""

from pathlib import Path

import pytest

from trainer.storage.near_paths import nearest_path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs/quickstart/model").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/pairs.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("runs/quikstart/model", "runs/quickstart/model"),
        ("run/quickstart/modle", "runs/quickstart/model"),
        ("./runs/quikstart", "runs/quickstart"),
        ("data/pair.jsonl", "data/pairs.jsonl"),
        ("data/pairs", "data/pairs.jsonl"),
        ("data/pairs.json", "data/pairs.jsonl"),
    ],
)
def test_mistyped_path_is_answered_with_the_right_one(path: str, suggestion: str) -> None:
    assert nearest_path(path) == f"; did you mean {suggestion}?"


def test_absolute_path_stays_absolute(folder: Path) -> None:
    assert nearest_path(folder / "dat") == f"; did you mean {folder / 'data'}?"


@pytest.mark.parametrize(
    "path",
    [
        "BAAI/bge-base-en-v1.5",
        "runs/other",
        "runs/quikstart/else",
        "data/pairs.jsonl",
        "data/pairs.jsonl/x",
        "a\0b",
    ],
)
def test_path_without_a_similar_one_has_no_suggestion(path: str) -> None:
    assert nearest_path(path) == ""


def test_broken_link_is_not_suggested() -> None:
    Path("corpus").symlink_to("nowhere")
    assert nearest_path("corpsu") == ""
