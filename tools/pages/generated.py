"""Pages, and blocks of pages, that are written from the code or from measurements: `make docs`
writes them, `make check` compares them with what they were written from.

A block stands between the lines `<!-- begin NAME -->` and `<!-- end NAME -->` of a page.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages import commands, dashboard, decisions, equality, layers, quality, recipe_keys


def current(root: Path) -> dict[str, str]:
    """The text that each generated file should have."""
    schema = recipe_schema()
    blocks = {
        "docs/README.md": {"decisions": decisions.decisions_list(root)},
        "docs/style.md": {"layers": layers.layers_block(root)},
        "docs/slurm.md": {"profile keys": recipe_keys.key_tables(profile_schema())},
        "docs/tracking.md": {"dashboard": dashboard.dashboard_table()},
        "docs/equality.md": {"worst figures": equality.worst_figures(root)},
        "docs/quality.md": {
            "recipes": quality.recipes_table(root),
            "comparisons": quality.comparisons_table(root),
            "settings": quality.settings_table(root),
        },
    }
    return {
        "docs/recipe.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        "docs/reference/recipe.md": recipe_keys.recipe_page(schema),
        "docs/reference/commands.md": commands.commands_page(),
        "docs/reference/exit-codes.md": commands.exit_codes_page(),
    } | {name: with_blocks(root / name, new) for name, new in blocks.items()}


def write(root: Path) -> None:
    """Writes every generated file anew."""
    for name, text in current(root).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def check(root: Path) -> Iterator[str]:
    """A finding for each generated file that is out of date."""
    for name, text in current(root).items():
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield f"{name}:1: out of date; run `make docs`"


def with_blocks(page: Path, blocks: dict[str, str]) -> str:
    """The page's text with new blocks, by their names.

    Raises `ValueError` when the page does not have exactly one block of a name.
    """
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        new = f"{begin}{block}{end}"
        text, count = re.subn(f"{begin}.*?{end}", lambda _, new=new: new, text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{page} has {count} blocks named {name!r}; it must have one")
    return text


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    from trainer.recipe.explain import json_schema

    return json_schema()


def profile_schema() -> dict[str, Any]:
    """The JSON Schema of a Slurm profile."""
    from trainer.slurm.profile import Profile

    return Profile.model_json_schema()
