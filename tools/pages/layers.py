"""The block of docs/style.md on layers, from the contracts of import-linter in pyproject.toml."""

import tomllib
from pathlib import Path


def layers_block(root: Path) -> str:
    """The layers, from the top down, and what every contract demands."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    rules = "".join(f"- {contract['name']}.\n" for contract in contracts)
    return "```text\n" + "\n".join(layers) + "\n```\n\n" + rules
