"""What messages advise exists: keys of the recipe."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import BadRecipe
from trainer.recipe.explain import explain_keys

_KEY = re.compile(
    r"(?<![\w./-])(?:machine|data|model|objective|optimization|validation|teacher|refresh)"
    r"(?:\.(?!safetensors|json|yaml|py\b)[a-z][a-z_0-9]*)+(?![\w/]*\()"
)


def _messages(path: Path) -> Iterator[str]:
    """Texts of a module that a person may be shown; docstrings and names of modules are not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


def test_keys_in_messages_are_keys_of_the_recipe(repository: Path) -> None:
    unknown, known = [], 0
    for path in sorted((repository / "trainer").rglob("*.py")):
        for message in _messages(path):
            for key in _KEY.findall(message):
                try:
                    explain_keys(key)
                    known += 1
                except BadRecipe:
                    unknown.append(f"{path.relative_to(repository)}: {key}")
    assert known > 20
    assert unknown == []
