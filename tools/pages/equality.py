"""The table of docs/equality.md: the worst figures of the cases in docs/equality.csv."""

import csv
from pathlib import Path

CASES = "docs/equality.csv"
HEAD = "| strategy | ranks | cases | worst norm | worst direction |\n|---|---|---|---|---|\n"


def worst_figures(root: Path) -> str:
    """One row per strategy and number of ranks, then one for all."""
    with (root / CASES).open(encoding="utf-8", newline="") as file:
        cases = list(csv.DictReader(file))
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for case in cases:
        groups.setdefault((case["strategy"], case["ranks"]), []).append(case)
    rows = [_row(*group, members) for group, members in groups.items()]
    return HEAD + "".join([*rows, _row("**all**", "", cases)])


def _row(strategy: str, ranks: str, cases: list[dict[str, str]]) -> str:
    norm = max(abs(float(case["norm_ratio_minus_1"])) for case in cases)
    direction = max(float(case["direction_difference"]) for case in cases)
    return f"| {strategy} | {ranks} | {len(cases)} | {norm:.1e} | {direction:.1e} |\n"
