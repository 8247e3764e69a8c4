"""Pages, and parts of pages, that are written from the code: `make docs` writes them, `make check`
holds them against the code.
"""

import json
from collections.abc import Iterator
from pathlib import Path


def current(root: Path) -> dict[str, str]:
    """The text that each generated file has by the code."""
    return {"docs/recipe.schema.json": recipe_schema()}


def write(root: Path) -> None:
    """Writes every generated file anew."""
    for name, text in current(root).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def check(root: Path) -> Iterator[str]:
    """A finding for each generated file that is not what the code says."""
    for name, text in current(root).items():
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield f"{name}:1: not what the code says; run `make docs`"


def recipe_schema() -> str:
    """The JSON Schema of a recipe."""
    from trainer.recipe.keys import json_schema

    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
