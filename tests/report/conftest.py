"""One short real run that several tests of the report read."""

import json
from pathlib import Path

import pytest

import nearfar

TEXTS = [
    f"{action} {kind} {noun}"
    for action in ("create", "delete", "show", "list")
    for kind in ("storage", "virtual", "public", "managed")
    for noun in ("disk", "account", "database", "machine")
]


def write_rows(path: Path, rows: list[dict[str, str]]) -> str:
    """Writes JSON Lines, and returns the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_collection(folder: Path, texts: list[str]) -> str:
    """Writes a BEIR folder with a test query for each text, and returns its path as text."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "text": f"about {text}"} for n, text in enumerate(texts)]
    write_rows(folder / "corpus.jsonl", documents)
    write_rows(
        folder / "queries.jsonl", [{"_id": f"q{n}", "text": text} for n, text in enumerate(texts)]
    )
    judgements = "".join(f"q{n}\td{n}\t1\n" for n in range(len(texts)))
    (folder / "qrels/test.tsv").write_text(judgements)
    return str(folder)


def toy_settings(folder: Path, backbone: Path) -> dict:
    """A recipe of three steps on 49 pairs, with two general collections.

    One pair occurs twice, one document of 16 is long, and of the test queries one is a training
    query and one differs from it by a word's case.
    """
    rows = [{"query": f"the {text}", "positive": f"a {text}"} for text in TEXTS]
    for row in rows[:48:16]:
        row["positive"] += " which has many words" * 20
    leaks = [{"query": query, "positive": "a bird"} for query in ("the show storage disk", "THE "
             "show storage account")]  # fmt: skip
    return {
        "name": "toy",
        "output": str(folder),
        "model": {"backbone": str(backbone), "tuning": {"kind": "lora"}},
        "data": {
            "train": write_rows(folder / "train.jsonl", [*rows[:48], rows[5]]),
            "validation": write_rows(folder / "dev.jsonl", rows[48:56]),
            "test": write_rows(folder / "test.jsonl", [*rows[56:], *leaks]),
            "corpus": write_rows(
                folder / "corpus.jsonl",
                [{"_id": str(n), "text": row["positive"]} for n, row in enumerate(rows)],
            ),
            "general": [
                write_collection(folder / "birds", ["red bird", "blue bird", "old tree"]),
                write_collection(folder / "tools", [*TEXTS[:12], "the show storage disk"]),
            ],
        },
        "optimization": {"batch_size": 16, "max_steps": 3, "learning_rate": 0.01},
        "machine": {"accelerator": "cpu", "precision": "fp32"},
    }


@pytest.fixture
def settings(tmp_path, toy_folder) -> dict:
    """The recipe of `toy_run`, to change."""
    return toy_settings(tmp_path, toy_folder("bert"))


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory, toy_folder) -> Path:
    """The folder of a finished run. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("toy-run")
    return nearfar.fit(toy_settings(folder, toy_folder("bert"))).folder
