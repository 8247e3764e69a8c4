"""Writes folders in BEIR layout: corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.data.readers.beir import MARKER
from trainer.storage.atomic import atomic_file, atomic_folder, write_text


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


def write_beir_folder(target: Path, data: BeirSet, replace: bool = False) -> Path:
    """Writes the folder under a temporary name and renames it, so that it is never incomplete.

    A former folder with content is replaced only if `replace` is true; else OSError is raised.
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
        marker = json.dumps(data.source | {"counts": counts}, indent=2)
        write_text(temporary / MARKER, f"{marker}\n")
        if target.is_dir() and not replace:
            target.rmdir()  # raises if it has content by now
    return target


def _write_lines(path: Path, records: Iterable[dict[str, str]]) -> int:
    """Writes JSON Lines; the number of lines."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        return sum(
            1 for record in records if file.write(json.dumps(record, ensure_ascii=False) + "\n")
        )
