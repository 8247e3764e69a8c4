"""Examples of how to use the trained model, taken from the model card that its family writes."""

import re
from dataclasses import dataclass
from pathlib import Path

_EXAMPLES = {
    "nearfar encode": (
        "# vectors of your texts, one text per line\n"
        "nearfar encode {model} < texts.txt > vectors.npy"
    ),
    "nearfar search": (
        "# search your documents\n"
        "nearfar index {model} corpus.jsonl -o idx\n"
        'nearfar search idx "a question"'
    ),
    "nearfar search --rerank": (
        '# rerank the results of an index\nnearfar search idx "a question" --rerank {model}'
    ),
}
"""Commands that a model card may name in backticks, with an example of each."""
_PLACEHOLDER = "path/to/this/folder"


@dataclass(frozen=True, slots=True)
class Usage:
    """Examples for one model folder; empty if its card has none."""

    shell: str
    python: str


def usage(model: Path) -> Usage | None:
    """Returns examples for the model in a folder, or None if there is no model card."""
    card = model / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    block = re.search(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    python = block[1].rstrip().replace(_PLACEHOLDER, str(model)) if block else ""
    commands = set(re.findall(r"`(nearfar [a-z -]+)`", text))
    shell = [
        example.replace("{model}", str(model))
        for command, example in _EXAMPLES.items()
        if command in commands
    ]
    return Usage("\n\n".join(shell), python)
