"""Small copies of the data sets, to see what training does with few pairs or few documents.

What is left out is chosen by a hash, so a cut is the same on every machine.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cut:
    """What is kept of a data set."""

    source: str
    pairs: int
    train_documents: int | None = None
    """Pairs are taken from this many documents (None: from all)."""
    documents: int = 1_200
    """At least all answers are kept; others are added up to this number."""
    dev_queries: int = 200
    test_queries: int = 400


def write_cut(folder: Path, cut: Cut, target: Path) -> Path:
    """Writes the cut of the set in `folder` in BEIR layout, and returns its folder.

    In `measured/`, the test queries are those of dev and of test, to measure both with one search.
    """
    if target.exists():
        return target
    staging = target.with_name(f"{target.name}.{os.getpid()}")
    (staging / "qrels").mkdir(parents=True)
    judgements = {split: _judgements(folder / "qrels" / f"{split}.tsv") for split in _SPLITS}
    (staging / "measured" / "qrels").mkdir(parents=True)
    answers: set[str] = set()
    asked: set[str] = set()
    measured = ["query-id\tcorpus-id\tscore"]
    for split, rows in judgements.items():
        limit = {"train": cut.pairs, "dev": cut.dev_queries, "test": cut.test_queries}[split]
        if split == "train" and cut.train_documents is not None:
            chosen = set(_first({document for _, document, _ in rows}, cut.train_documents))
            rows = [row for row in rows if row[1] in chosen]
        queries = set(_first({query for query, _, _ in rows}, limit))
        rows = [row for row in rows if row[0] in queries]
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(row) for row in rows)]
        (staging / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        if split != "train":
            measured += lines[1:]
        answers |= {document for _, document, _ in rows}
        asked |= queries
    corpus = _lines_by_id(folder / "corpus.jsonl")
    others = _first(corpus.keys() - answers, max(cut.documents - len(answers), 0))
    _write(staging / "corpus.jsonl", corpus, answers | set(others))
    _write(staging / "queries.jsonl", _lines_by_id(folder / "queries.jsonl"), asked)
    (staging / "measured/qrels/test.tsv").write_text("\n".join(measured) + "\n")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/dev.tsv"):
        os.link(staging / name, staging / "measured" / name)
    try:
        staging.rename(target)
    except OSError:  # another process was quicker
        shutil.rmtree(staging)
    return target


def training_pairs(folder: Path) -> list[tuple[str, str]]:
    """The texts of the training pairs of a set in BEIR layout: queries and their answers."""
    texts = {}
    for name in ("queries.jsonl", "corpus.jsonl"):
        for row in map(json.loads, (folder / name).read_text().splitlines()):
            title = row.get("title", "")
            texts[row["_id"]] = f"{title} {row['text']}" if title else row["text"]
    judged = _judgements(folder / "qrels/train.tsv")
    return [(texts[query], texts[document]) for query, document, _ in judged]


_SPLITS = ("train", "dev", "test")


def _judgements(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()[1:]]


def _first(names: Iterable[str], count: int) -> list[str]:
    """The names with the smallest hashes."""
    return sorted(names, key=lambda name: hashlib.blake2b(name.encode()).digest())[:count]


def _lines_by_id(path: Path) -> dict[str, str]:
    return {json.loads(line)["_id"]: line for line in path.read_text().splitlines()}


def _write(path: Path, lines: dict[str, str], chosen: set[str]) -> None:
    path.write_text("".join(f"{line}\n" for name, line in lines.items() if name in chosen))
