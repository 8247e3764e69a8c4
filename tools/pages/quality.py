"""The tables of docs/quality.md, from the newest measurement of benchmarks/quality.py."""

import json
from pathlib import Path
from typing import Any

PEER, BY_DEV = "sentence-transformers", ", share by dev"
SETS = {
    "azure-cli 150": "azure-cli, 150",
    "azure-cli 800": "azure-cli, 800",
    "azure-cli 4 400": "azure-cli, 4,400",
    "tldr 1 000": "tldr, 1,000",
    "tldr 4 000": "tldr, 4,000",
    "tldr 20 000": "tldr, 19,657, one epoch",
    "squad 550, 90 documents": "squad_dev, 524 on 90 documents",
    "pycode 600": "pycode, 600",
}
SHIPPED = {
    f"LoRA{BY_DEV}": "bi-encoder-lora",
    f"LoRA, mined{BY_DEV}": "bi-encoder-lora-mined",
    "full": "bi-encoder-full",
}
"""The recipes as they are: LoRA chooses the share on dev, full keeps all."""
HEAD = "| training pairs | model | seeds | nDCG@10 | change | general | change | share kept |\n"
RULE = "|---|---|---|---|---|---|---|---|\n"


def recipes_table(root: Path) -> str:
    """BM25, the model before training, sentence-transformers and the recipes on each set."""
    names = {"BM25": "BM25", "base": "before training", PEER: PEER} | {
        model: f"**{recipe}**" for model, recipe in SHIPPED.items()
    }
    rows = []
    for records in _by_set(root).values():
        rows += [_row(records[model], name) for model, name in names.items() if model in records]
    return HEAD + RULE + "".join(rows)


def comparisons_table(root: Path) -> str:
    """The recipes minus sentence-transformers, and minus the LoRA recipe."""
    head = "| training pairs | recipe | minus | seeds | nDCG@10 | general |\n"
    rows = []
    for title, records in _by_set(root).items():
        for model, recipe in SHIPPED.items():
            record = records.get(model, {"test": {}})
            for rival, name in ((PEER, PEER), ("LoRA", "bi-encoder-lora")):
                if f"minus {rival}" in record["test"]:
                    changes = [_change(record[key], rival) for key in ("test", "general")]
                    cells = [SETS[title], recipe, name, str(record["seeds"]), *changes]
                    rows.append(_line(cells))
    return head + "|---|---|---|---|---|---|\n" + "".join(rows)


def settings_table(root: Path) -> str:
    """All that was measured besides the recipes: other settings, and all of the change."""
    rows = []
    for records in _by_set(root).values():
        rows += [
            _row(record, model.replace(BY_DEV, ", share by validation"))
            for model, record in records.items()
            if model not in SHIPPED and model not in ("BM25", "base", PEER)
        ]
    return HEAD + RULE + "".join(rows)


def _by_set(root: Path) -> dict[str, dict[str, Any]]:
    """The records of the newest measurement by set and model."""
    path = max((root / "benchmarks/results").glob("????-??-??-quality.json"))
    by_set: dict[str, dict[str, Any]] = {name: {} for name in SETS}
    for record in json.loads(path.read_text(encoding="utf-8"))["records"]:
        by_set[record["set"]][record["model"]] = record
    return {name: records for name, records in by_set.items() if records}


def _row(record: dict[str, Any], name: str) -> str:
    cells = [SETS[record["set"]], name, str(record.get("seeds", ""))]
    for key in ("test", "general"):
        values = record[key]
        cells += [f"{values['mean']:.3f}" if values else "", _change(values, "base")]
    return _line([*cells, ", ".join(record.get("shares", []))])


def _change(values: dict[str, Any], rival: str) -> str:
    """The difference with its interval, bold where that excludes 0."""
    if (change := values.get(f"minus {rival}")) is None:
        return ""
    difference, low, high = change
    mark = "**" if low > 0 or high < 0 else ""
    return f"{mark}{difference:+.3f}{mark} [{low:+.3f}, {high:+.3f}]"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
