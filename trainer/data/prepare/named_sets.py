"""Writes a data set that is known by name into a BEIR folder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.data.prepare.azure_cli import azure_cli_set
from trainer.data.prepare.azure_cli_wheel import check_wheel, download_wheel
from trainer.data.prepare.beir import HUB_SETS, BeirSet, fetch_beir
from trainer.errors import BadData, BadFolder
from trainer.storage.atomic import atomic_file, atomic_folder, write_text

MARKER = "source.json"
"""Name, version and counts of a prepared folder. It is written last, so the folder is complete."""


def prepared_source(folder: Path) -> dict[str, Any] | None:
    """Returns the content of `source.json` (name, version, counts), or None without a complete
    folder.
    """
    marker = folder / MARKER
    return json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None


def prepare(name: str, folder: Path = Path("data"), wheel: Path | None = None) -> Path:
    """Writes the data set `name` into the BEIR folder `folder / name`, which is returned.

    A complete folder is kept. Raises BadData for an unknown name or a source that cannot be
    reached, and BadFolder if something else has the folder's name.
    """
    if name != "azure-cli" and name not in HUB_SETS:
        raise BadData(
            f"{name!r} is not a data set that can be prepared; choose one of:"
            f" {', '.join(('azure-cli', *HUB_SETS))}."
        )
    target = Path(folder) / name
    if prepared_source(target):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadFolder(
            f"{target} exists but has no {MARKER}, so it was not made by this command; move it"
            " away or choose another folder."
        )
    if name == "azure-cli":
        if wheel:
            check_wheel(wheel)
        else:
            wheel = download_wheel(Path(folder) / ".downloads")
        return _write_folder(target, azure_cli_set(wheel))
    return _write_folder(target, fetch_beir(name))


def _write_folder(target: Path, data: BeirSet) -> Path:
    """Writes the folder under a temporary name and renames it, so that it is never incomplete."""
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
        if target.is_dir():
            target.rmdir()  # raises if it has content by now
    return target


def _write_lines(path: Path, records: Iterable[dict[str, str]]) -> int:
    """Writes JSON Lines; the number of lines."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        return sum(
            1 for record in records if file.write(json.dumps(record, ensure_ascii=False) + "\n")
        )
