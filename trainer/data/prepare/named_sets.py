"""`nearfar data prepare`: builds a named data set in BEIR layout."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.data.prepare import azure_cli as prepare_azure_cli
from trainer.data.near_duplicates import near_identical
from trainer.data.prepare.beir import HUB_SETS, BeirSet, fetch_beir
from trainer.data.splits import split_by_document
from trainer.errors import BadData, BadFolder
from trainer.storage.atomic import atomic_folder

MARKER = "source.json"
"""Written last: a folder that has it is whole."""
TEST_QUERIES, DEV_QUERIES = 1500, 500


def prepared_source(folder: Path) -> dict[str, Any] | None:
    """What `source.json` of a prepared folder says (name, version, counts); None where there is no
    whole folder.
    """
    marker = folder / MARKER
    return json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None


def prepare(name: str, folder: Path = Path("data"), wheel: Path | None = None) -> Path:
    """The folder `folder / name` with the data set `name` in BEIR layout; one that is already there
    and whole is kept.

    Raises BadData for a name that is not one of those known, or a source that cannot be reached;
    BadFolder when something else is in the way.
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
            f"{target} is there but has no {MARKER}, so it was not made by this command; move it"
            " away or choose another folder."
        )
    if name == "azure-cli":
        path = (
            prepare_azure_cli.checked_wheel(wheel)
            if wheel
            else prepare_azure_cli.download_wheel(Path(folder) / ".downloads")
        )
        return _written(target, _azure_cli(path))
    return _written(target, fetch_beir(name))


def _azure_cli(wheel: Path) -> BeirSet:
    """The quickstart's set: split by command, near-identical queries on one side."""
    commands = prepare_azure_cli.read_commands(wheel)
    asked = prepare_azure_cli.queries(commands)
    splits = split_by_document(asked, {"test": TEST_QUERIES, "dev": DEV_QUERIES})
    twins = {splits["dev"][at] for at, _ in near_identical(splits["dev"], splits["test"])}
    twins |= {
        splits["train"][at]
        for at, _ in near_identical(splits["train"], splits["dev"] + splits["test"])
    }
    kept = [query for query in asked if query not in twins]
    ids = {query: f"q{number}" for number, query in enumerate(kept)}
    return BeirSet(
        corpus=(
            {"_id": name, **document}
            for name, document in prepare_azure_cli.documents(commands).items()
        ),
        queries=({"_id": ids[query], "text": query} for query in kept),
        qrels={
            name: [(ids[q], document, 1) for q in split if q in ids for document in asked[q]]
            for name, split in splits.items()
        },
        readme=prepare_azure_cli.README,
        source={
            "name": "azure-cli",
            "version": prepare_azure_cli.VERSION,
            "sha256": prepare_azure_cli.SHA256,
            "near_identical_left_out": len(twins),
        },
    )


def _written(target: Path, data: BeirSet) -> Path:
    """Writes the folder beside its place and renames it there, so that it is there whole or not at
    all.
    """
    with atomic_folder(target) as temporary:
        counts = {
            "documents": _write_lines(temporary / "corpus.jsonl", data.corpus),
            "queries": _write_lines(temporary / "queries.jsonl", data.queries),
        }
        (temporary / "qrels").mkdir()
        for split in ("train", "dev", "test"):
            if judged := data.qrels.get(split):
                lines = [
                    "query-id\tcorpus-id\tscore",
                    *(f"{query}\t{document}\t{score}" for query, document, score in judged),
                ]
                (temporary / "qrels" / f"{split}.tsv").write_text(
                    "\n".join(lines) + "\n", encoding="utf-8"
                )
                counts[f"{split}_queries"] = len({query for query, _, _ in judged})
        (temporary / "README.txt").write_text(data.readme, encoding="utf-8")
        (temporary / MARKER).write_text(
            json.dumps(data.source | {"counts": counts}, indent=2) + "\n", encoding="utf-8"
        )
        if target.is_dir():
            target.rmdir()  # and raise if something has come there meanwhile
    return target


def _write_lines(path: Path, records: Iterable[dict[str, str]]) -> int:
    """Writes JSON Lines and returns how many."""
    with path.open("w", encoding="utf-8") as file:
        return sum(
            1 for record in records if file.write(json.dumps(record, ensure_ascii=False) + "\n")
        )
