"""Rows of the data sets, and the model: the same for both contenders."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
REAL_DATA = REPOSITORY.parent / "shared" / "data"
DATA_SETS = {
    "azure-cli": REPOSITORY / "data" / "azure-cli",
    "pycode": REAL_DATA / "pycode",
    "squad_dev": REAL_DATA / "squad_dev",
    "tldr": REAL_DATA / "tldr",
    "aws_cli": REAL_DATA / "aws_cli",
}
PYLATE = REPOSITORY / ".venv-pylate"
"""PyLate's environment: `make setup-pylate`."""
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SEED, TEMPERATURE = 13, 0.05


def present(name: str) -> Path | None:
    """The folder of a data set, or None with the reason printed."""
    folder = DATA_SETS[name]
    if (folder / "corpus.jsonl").is_file():
        return folder
    hint = (
        "make it with `nearfar data prepare azure-cli`"
        if name == "azure-cli"
        else "it is not part of the repository"
    )
    print(f"skipped {name}: there is no {folder.name}/corpus.jsonl; {hint}")
    return None


def model_folder() -> str:
    """all-MiniLM-L6-v2: the packaged copy where it is installed, else its hub name's."""
    from trainer.models.files.locate import locate

    return str(locate(MINILM))


def exchange_adapter(backbone: Any, path: Path) -> None:
    """Writes the fresh adapter once and reads it ever after, so that every run of every contender
    starts from the same weights.
    """
    import torch
    from safetensors.torch import load_file, save_file

    weights = {
        name.removeprefix("base_model.model."): value
        for name, value in backbone.named_parameters()
        if ".lora_" in name
    }
    assert weights
    if not path.exists():
        save_file({name: value.detach().contiguous() for name, value in weights.items()}, path)
        return
    kept = load_file(path)
    assert kept.keys() == weights.keys(), kept.keys() ^ weights.keys()
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(kept[name])


def write_pairs(folder: Path, steps: int, batch: int, path: Path) -> int:
    """Training pairs for `steps` batches, no query and no document twice: then no false negative is
    masked and both losses are one number.

    Returns for how many steps there are such pairs, where they do not last for all.
    """
    from trainer.data.readers.read import read_rows

    pairs: list[tuple[str, str]] = []
    seen: set[str] = set()
    for row in read_rows(str(folder), split="train"):
        if row.query not in seen and row.positive not in seen:
            seen |= {row.query, row.positive}
            pairs.append((row.query, row.positive))
            if len(pairs) == steps * batch:
                break
    whole = len(pairs) // batch
    path.write_text(
        "".join(
            json.dumps({"query": query, "positive": positive}) + "\n"
            for query, positive in pairs[: whole * batch]
        )
    )
    return whole


def pairs_in_order(path: Path, steps: int, batch: int) -> list[tuple[str, str]]:
    """The pairs in the order in which our trainer visits them."""
    from trainer.data.order import batch_samples

    pairs: Sequence[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    order = [
        int(sample)
        for step in range(steps)
        for sample in batch_samples(SEED, step, len(pairs), batch)
    ]
    return [(pairs[at]["query"], pairs[at]["positive"]) for at in order]


def documents(folder: Path, limit: int) -> list[str]:
    """Up to `limit` documents, spread evenly over the corpus."""
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    chosen = lines[:: max(1, len(lines) // limit)][:limit]
    records = [json.loads(line) for line in chosen]
    return [
        f"{record['title']} {record['text']}" if record.get("title") else record["text"]
        for record in records
    ]


def training_files(folder: Path, source: Path, steps: int, batch: int) -> dict[str, Any]:
    """Writes the rows for both trainers into `folder`: in any order for ours, in the order of our
    visits for the other. Returns their paths, and for how many steps they last.
    """
    paths = {name: folder / f"{name}.jsonl" for name in ("rows", "ordered", "validation")}
    steps = write_pairs(source, steps, batch, paths["rows"])
    paths["ordered"].write_text(
        "".join(
            json.dumps({"query": query, "positive": positive}) + "\n"
            for query, positive in pairs_in_order(paths["rows"], steps, batch)
        )
    )
    lines = paths["rows"].read_text().splitlines()[:8]
    paths["validation"].write_text("".join(line + "\n" for line in lines))
    return {**{name: str(path) for name, path in paths.items()}, "steps": steps}


def columns(ordered: str) -> dict[str, list[str]]:
    """The rows that `training_files` has ordered, as the columns of another trainer."""
    rows = [json.loads(line) for line in Path(ordered).read_text().splitlines()]
    return {
        "query": [row["query"] for row in rows],
        "document": [row["positive"] for row in rows],
    }
