"""Writes folders in BEIR layout: corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.data.readers.beir import MARKER
from trainer.errors import BadFolder
from trainer.storage.atomic import atomic_file, atomic_folder, check_replaceable, write_text

ANSWERS = "answers.jsonl"
"""The answers of an endpoint, from which some queries were made."""
_FILES = {"corpus.jsonl", "queries.jsonl", "qrels", "README.txt", ANSWERS, MARKER}


@dataclass(frozen=True)
class BeirSet:
    """The content of a BEIR folder, to be written."""

    corpus: Iterable[dict[str, str]]
    queries: Iterable[dict[str, str]]
    qrels: dict[str, list[tuple[str, str, int]]]
    """Split to (query id, document id, score)."""
    readme: str
    source: dict[str, Any] = field(default_factory=dict)
    """Name and version, for `source.json`."""
    answers: str = ""
    """The content of `answers.jsonl`; "" for none."""


def write_beir_folder(target: Path, data: BeirSet, replace: bool = False) -> Path:
    """Writes the folder under a temporary name and renames it, so that it is never incomplete.

    A former folder with content is replaced only if `replace` is true; else BadFolder is raised.
    """
    with atomic_folder(target) as temporary:
        counts = {
            "documents": _write_lines(temporary / "corpus.jsonl", data.corpus),
            "queries": _write_lines(temporary / "queries.jsonl", data.queries),
        }
        (temporary / "qrels").mkdir()
        for split in ("train", "dev", "test"):
            if judgements := data.qrels.get(split):
                lines = [
                    "query-id\tcorpus-id\tscore",
                    *(f"{query}\t{document}\t{score}" for query, document, score in judgements),
                ]
                write_text(temporary / "qrels" / f"{split}.tsv", "\n".join(lines) + "\n")
                counts[f"{split}_queries"] = len({query for query, _, _ in judgements})
        write_text(temporary / "README.txt", data.readme)
        if data.answers:
            write_text(temporary / ANSWERS, data.answers)
        marker = json.dumps(data.source | {"counts": counts}, indent=2)
        write_text(temporary / MARKER, f"{marker}\n")
        check_beir_target(target, replace)  # again: it may have content by now
    return target


def _write_lines(path: Path, records: Iterable[dict[str, str]]) -> int:
    """Writes JSON Lines; the number of lines."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        return sum(
            1 for record in records if file.write(json.dumps(record, ensure_ascii=False) + "\n")
        )


def check_beir_target(target: Path, replace: bool) -> None:
    """Raises BadFolder if the folder has content that may not be replaced.

    A folder that has only answers of an endpoint may be continued.
    """
    check_replaceable(target, "data set")
    names = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if names - {ANSWERS} and not replace:
        raise BadFolder(f"{target} is not empty; choose another folder, or replace it: --replace")
    if foreign := sorted(names - _FILES):
        raise BadFolder(
            f"{target} is not replaced, because it has files that this command does not write"
            f" ({', '.join(foreign[:3])}); choose another folder"
        )
